"""Releases of the current and of earlier formats are opened."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from encoder.config import ConditioningConfig, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.releases.index import FORMAT_VERSION, INDEX, upgrade_index
from encoder.releases.release import Release
from tests.bases import SHIPPED

FACES = SHIPPED.with_name("faces")
"""The shipped release, which was written in format version 1."""


def with_index(folder: Path, **changes: Any) -> Path:
    """Copy the shipped release with some keys of its index replaced."""
    shutil.copytree(FACES, folder)
    (folder / INDEX).write_text(json.dumps(json.loads((FACES / INDEX).read_text()) | changes))
    return folder


def test_the_shipped_release_of_format_version_1_is_opened() -> None:
    release = Release.open(FACES)
    assert json.loads((FACES / INDEX).read_text())["format_version"] == 1
    assert release.base == {"model": "../base", "revision": None, "image_encoder": None}
    assert release.conditioning == ConditioningConfig(
        domain_word="person", embedding_scale=0.5, templates=("a portrait of a *s",), caption_probability=0.8
    )
    assert release.tuning == TuneConfig(batch_size=8, learning_rate=0.0002, regularization_weight=0.0001)
    assert release.sampling == SampleConfig(num_inference_steps=25, guidance_scale=4.0, guidance_rescale=0.5)


def test_the_digest_of_a_release_of_format_version_1_stays_what_it_was() -> None:
    """MLflow tags, evaluations and concept caches that were made before hold this digest."""
    expected = "ed92316a75dcfaf5f9274355f8be9ae095b2f6876c0f8781e3568791e784c6f7"
    assert Release.open(FACES).content_digest == expected


def test_old_tuning_keys_and_values_are_renamed(tmp_path: Path) -> None:
    old = {
        "steps": 3,
        "regulariser": 0.2,
        "word": "identifier",
        "identifier": "zwx",
        "train": "nothing",
        "text_encoder": True,
        "prior_pictures": 4,
        "prior_weight": 0.5,
        "stored_bits": 8,
    }
    expected = TuneConfig(
        steps=3,
        regularization_weight=0.2,
        token_type="rare_token",
        rare_token="zwx",
        trainable="none",
        train_text_encoder=True,
        num_class_images=4,
        prior_loss_weight=0.5,
        delta_bits=8,
    )
    assert Release.open(with_index(tmp_path / "release", tuning=old)).tuning == expected


def test_an_image_encoder_is_read_under_its_old_key(tmp_path: Path) -> None:
    base = {"model": str(SHIPPED), "revision": None, "clip": "./clip", "dtype": "bfloat16"}
    release = Release.open(with_index(tmp_path / "release", base=base))
    (release.folder / "clip").mkdir()
    config = release.backbone_config()
    assert (config.image_encoder, config.dtype) == (str(release.folder / "clip"), "bfloat16")


def test_an_index_of_the_current_format_is_not_changed() -> None:
    index = {"format_version": FORMAT_VERSION, "tuning": asdict(TuneConfig())}
    assert upgrade_index(index) == index


@pytest.mark.parametrize("key", ["name", "version", "base", "conditioning", "tuning", "sampling"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    folder = with_index(tmp_path / "release")
    index = json.loads((folder / INDEX).read_text())
    del index[key]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=f"lacks '{key}'"):
        Release.open(folder)


@pytest.mark.parametrize(
    "changes", [{"tuning": {"unknown": 1}}, {"format_version": FORMAT_VERSION, "sampling": {"guidance": 2.0}}]
)
def test_an_unknown_setting_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = with_index(tmp_path / "release", **changes)
    with pytest.raises(ModelError, match="upgrade e4t") as caught:
        Release.open(folder)
    assert "\n" not in str(caught.value)
