"""Captions that were configured and not found."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

from data_prep.config import PrepareConfig, SourceConfig, SplitFractions
from data_prep.shards.manifest import Manifest
from e4t_errors import ConfigError

ConfigFor = Callable[..., PrepareConfig]
PrepareDataset = Callable[[PrepareConfig], Manifest]


def stored_captions(output: str) -> dict[str, str]:
    """Return the captions in the shards by key."""
    tars = sorted(str(path) for path in Path(output).rglob("*.tar"))
    samples = webdataset.WebDataset(tars, shardshuffle=False)
    return {sample["__key__"]: json.loads(sample["json"])["caption"] for sample in samples}


def test_images_without_the_configured_caption_are_counted_and_have_the_template(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    for number in range(3):
        (images / "cat00" / f"{number}.caption").write_text(" " if number == 2 else f"number {number}")
    (images / "cat01" / "0.png").write_bytes((images / "cat00" / "3.png").read_bytes())  # a duplicate is not counted
    options = SourceConfig(caption_suffix=".caption")
    config = config_for(source_options=options, splits=SplitFractions(train=1, val=0, test=0))
    manifest = prepare_dataset(config)
    captions = stored_captions(config.output)
    assert (manifest.kept, manifest.captions_missing) == (47, 45)
    assert [captions[f"cat00__{number}"] for number in range(3)] == ["number 0", "number 1", "a photo of a cat"]


def test_nothing_is_counted_if_no_caption_was_configured(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    assert prepare_dataset(config_for()).captions_missing == 0


@pytest.mark.parametrize("options", [{"caption_suffix": ".caption"}, {"caption_column": "text"}])
def test_a_caption_that_no_image_has_is_an_error_before_any_work(
    options: dict[str, str], images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    for path in images.rglob("*.txt"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"none of 48 images has the configured caption; check metadata files"):
        prepare_dataset(config_for(source_options=SourceConfig(**options)))  # type: ignore[arg-type]


def test_a_key_that_no_caption_file_has_is_an_error(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    for path in images.rglob("*.png"):
        path.with_suffix(".json").write_text('{"caption": "a cat"}')
    config = config_for(source_options=SourceConfig(caption_suffix=".json", caption_column="text"))
    with pytest.raises(ConfigError, match=r"none of 48 images has the configured caption.*caption_column 'text'"):
        prepare_dataset(config)
    assert not (Path(config.output) / "manifest.json").exists()


def test_metadata_files_give_captions_and_columns(
    images: Path, config_for: ConfigFor, prepare_dataset: PrepareDataset
) -> None:
    rows = [{"file_name": f"cat{number:02d}/1.png", "text": f"cat {number}, café"} for number in range(12)]
    (images / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = config_for()
    manifest = prepare_dataset(config)
    assert (manifest.captions_missing, manifest.ignored_counts) == (24, {"side table": 1})
    assert stored_captions(config.output)["cat03__1"] == "cat 3, café"
