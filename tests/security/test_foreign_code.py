"""Models that bring code of their own: it is not run, and nobody is asked whether it should be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from encoder.backbone import Backbone
from encoder.config import BackboneConfig
from encoder.errors import ConfigError
from encoder.metrics import Recogniser
from tests.bases import SHIPPED


@pytest.fixture
def tower(tmp_path: Path, marker: Path) -> Path:
    """A folder whose configuration names classes in a file of its own."""
    folder = tmp_path / "tower"
    shutil.copytree(SHIPPED / "clip", folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoImageProcessor": "own.Processor"}
    config |= {"model_type": "of-its-own", "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"auto_map": names}))
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).write_text('imported')\n")
    return folder


@pytest.mark.parametrize(
    "load",
    [
        lambda tower: Backbone.load(BackboneConfig(model=str(SHIPPED), clip=str(tower))),
        lambda tower: Recogniser(str(tower)),
    ],
    ids=["picture tower", "recogniser"],
)
def test_a_models_own_code_is_refused(
    load: Callable[[Path], object], tower: Path, marker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load(tower)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert "Do you wish" not in capfd.readouterr().out
