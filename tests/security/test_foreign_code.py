"""Models that bring code of their own: it is not run, and nobody is asked whether it should be."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from e4t import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.config import BackboneConfig
from encoder.errors import ModelError
from encoder.images import open_image
from encoder.metrics import ImageFeatureExtractor
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
        lambda tower: Backbone.load(BackboneConfig(model=str(SHIPPED), image_encoder=str(tower))),
        lambda tower: ImageFeatureExtractor(str(tower)),
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


def test_a_picture_that_is_a_program_starts_no_interpreter(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow hands PostScript to Ghostscript, here a script that leaves the mark."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho ran > {marker}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    picture = tmp_path / "me.png"
    picture.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ModelError, match="cannot be read as an image"):
        open_image(picture)
    assert not marker.exists()
    with Image.open(picture) as image, pytest.raises((OSError, subprocess.CalledProcessError)):
        image.load()
    assert marker.exists(), "Pillow by itself would have"
