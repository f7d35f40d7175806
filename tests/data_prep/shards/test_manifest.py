import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest
from data_prep.storage.store import Store
from tests.data_prep.damage import edit_json


@pytest.fixture
def dataset_copy(shared_dataset: Path, tmp_path: Path) -> Path:
    """A dataset that the test may damage."""
    return shutil.copytree(shared_dataset, tmp_path / "copy")


def test_a_saved_manifest_loads_unchanged(shared_dataset: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(shared_dataset)
    manifest.save(Store(str(tmp_path)))
    assert Manifest.load(tmp_path) == manifest
    assert Manifest.load(tmp_path).digest == manifest.digest


def test_the_digest_changes_with_any_shard(shared_dataset: Path, tmp_path: Path) -> None:
    text = (shared_dataset / "manifest.json").read_text()
    sha256 = Manifest.load(shared_dataset).splits["train"][0].sha256
    (tmp_path / "manifest.json").write_text(text.replace(sha256, "0" * 64))
    assert Manifest.load(tmp_path).digest != Manifest.load(shared_dataset).digest


def test_a_manifest_of_a_newer_e4t_is_refused(dataset_copy: Path) -> None:
    path = dataset_copy / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 4, "something": "new"}))
    with pytest.raises(DataError, match=r"manifest.json was written by a newer e4t \(format 4.*; upgrade e4t"):
        Manifest.load(dataset_copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": "one"}', "\x00\xff"])
def test_a_malformed_manifest_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="manifest.json cannot be read .*; rerun `e4t prepare`"):
        Manifest.load(tmp_path)


def test_a_missing_manifest_error_says_how_to_create_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="manifest.json is missing; create the dataset with `e4t prepare`"):
        Manifest.load(tmp_path)


def test_an_empty_split_is_refused_and_the_available_splits_are_named(shared_dataset: Path) -> None:
    with pytest.raises(
        DataError, match=r"split 'holdout' has no images \(the dataset has train \d+, val \d+, test \d+\)"
    ):
        Manifest.load(shared_dataset).shards("holdout")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shards: shards.reverse(), "the shards of train are not in order, or one occurs twice"),
        (lambda shards: shards.insert(1, shards[0]), "or one occurs twice"),
        (lambda shards: shards.pop(), "and it counts"),
        (lambda shards: shards[0].update(samples=4), "and it counts"),
        (lambda shards: shards[0].update(samples=-1), "cannot have -1 samples"),
        (lambda shards: shards[0].update(bytes="many"), "in many bytes"),
    ],
    ids=["other order", "twice", "missing", "wrong count", "negative count", "no number"],
)
def test_a_manifest_whose_shards_cannot_be_right_is_refused(
    dataset_copy: Path, damage: Callable[[list[dict[str, object]]], object], message: str
) -> None:
    edit_json(dataset_copy / "manifest.json", lambda manifest: damage(manifest["splits"]["train"]))
    with pytest.raises(DataError, match=rf"manifest.json cannot be read \(.*{message}"):
        Manifest.load(dataset_copy)
