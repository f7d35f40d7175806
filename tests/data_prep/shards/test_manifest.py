import json
import shutil
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest, verify_shards
from data_prep.storage.store import Store


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
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 3, "something": "new"}))
    with pytest.raises(DataError, match=r"manifest.json was written by a newer e4t \(format 3.*; upgrade e4t"):
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


def test_verify_reports_nothing_for_an_intact_dataset(shared_dataset: Path) -> None:
    assert list(verify_shards(shared_dataset)) == []


def test_verify_names_exactly_the_damaged_shards(dataset_copy: Path) -> None:
    tars = sorted((dataset_copy / "train").glob("*.tar"))
    data = bytearray(tars[0].read_bytes())
    data[700] ^= 1
    tars[0].write_bytes(data)
    tars[1].write_bytes(tars[1].read_bytes()[:-1])
    tars[2].unlink()
    tars[3].with_suffix(".json").unlink()
    shutil.copy(tars[5].with_suffix(".json"), tars[4].with_suffix(".json"))
    lines = list(verify_shards(dataset_copy))
    for line, tar, failure in zip(
        lines,
        tars,
        ("sha256 differs", "bytes, not", "is missing", "cannot be read", "describes another shard"),
        strict=False,
    ):
        assert str(tar) in line
        assert failure in line
        assert "rerun `e4t prepare`" in line
    assert len(lines) == 5
