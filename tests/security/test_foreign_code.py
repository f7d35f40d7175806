"""Code that comes with a model or an image is not run, and e4t does not ask whether to run it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.config import BackboneConfig
from encoder.errors import ModelError
from encoder.images import open_image
from encoder.metrics import ImageFeatureExtractor
from tests.bases import SHIPPED


@pytest.fixture
def custom_model(tmp_path: Path, marker: Path) -> Path:
    """Return a model folder whose configuration names classes in a Python file of its own."""
    folder = tmp_path / "custom_model"
    shutil.copytree(SHIPPED / "clip", folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "custom.Config", "AutoModel": "custom.Model", "AutoImageProcessor": "custom.Processor"}
    config |= {"model_type": "custom", "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"auto_map": names}))
    (folder / "custom.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).write_text('imported')\n")
    return folder


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: Backbone.load(BackboneConfig(model=str(SHIPPED), image_encoder=str(folder))),
        lambda folder: ImageFeatureExtractor(str(folder)),
    ],
    ids=["image encoder", "recognizer"],
)
def test_a_model_with_its_own_code_is_rejected(
    load: Callable[[Path], object], custom_model: Path, marker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load(custom_model)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert "Do you wish" not in capfd.readouterr().out


def test_an_image_that_is_a_postscript_program_starts_no_interpreter(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow runs PostScript with Ghostscript, here replaced by a script that writes the marker file."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho ran > {marker}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    image_file = tmp_path / "me.png"
    image_file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ModelError, match="cannot be read as an image"):
        open_image(image_file)
    assert not marker.exists()
    with Image.open(image_file) as image, pytest.raises((OSError, subprocess.CalledProcessError)):
        image.load()
    assert marker.exists(), "Pillow alone runs the program"
