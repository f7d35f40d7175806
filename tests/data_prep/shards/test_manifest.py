import json
import shutil
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest, verify_shards
from data_prep.storage.store import Store


@pytest.fixture
def copied_set(shared_set: Path, tmp_path: Path) -> Path:
    """A set to harm."""
    return shutil.copytree(shared_set, tmp_path / "copy")


def test_a_manifest_comes_back_as_it_was_saved(shared_set: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(shared_set)
    manifest.save(Store(str(tmp_path)))
    assert Manifest.load(tmp_path) == manifest
    assert Manifest.load(tmp_path).digest == manifest.digest


def test_the_digest_changes_with_any_shard(shared_set: Path, tmp_path: Path) -> None:
    text = (shared_set / "manifest.json").read_text()
    sha256 = Manifest.load(shared_set).splits["train"][0].sha256
    (tmp_path / "manifest.json").write_text(text.replace(sha256, "0" * 64))
    assert Manifest.load(tmp_path).digest != Manifest.load(shared_set).digest


def test_a_manifest_of_a_newer_e4t_is_refused(copied_set: Path) -> None:
    path = copied_set / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 3, "something": "new"}))
    with pytest.raises(DataError, match=r"manifest.json was written by a newer e4t \(format 3.*; upgrade e4t"):
        Manifest.load(copied_set)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": "one"}', "\x00\xff"])
def test_a_manifest_that_is_none_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="manifest.json cannot be read .*; rerun `e4t prepare`"):
        Manifest.load(tmp_path)


def test_a_folder_without_a_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="manifest.json is missing; create the dataset with `e4t prepare`"):
        Manifest.load(tmp_path)


def test_a_split_without_pictures_is_refused_with_what_there_is(shared_set: Path) -> None:
    with pytest.raises(
        DataError, match=r"split 'holdout' has no images \(the dataset has train \d+, val \d+, test \d+\)"
    ):
        Manifest.load(shared_set).shards("holdout")


def test_a_whole_set_has_nothing_to_report(shared_set: Path) -> None:
    assert list(verify_shards(shared_set)) == []


def test_verify_names_every_shard_that_was_harmed_and_no_other(copied_set: Path) -> None:
    tars = sorted((copied_set / "train").glob("*.tar"))
    data = bytearray(tars[0].read_bytes())
    data[700] ^= 1
    tars[0].write_bytes(data)
    tars[1].write_bytes(tars[1].read_bytes()[:-1])
    tars[2].unlink()
    tars[3].with_suffix(".json").unlink()
    shutil.copy(tars[5].with_suffix(".json"), tars[4].with_suffix(".json"))
    lines = list(verify_shards(copied_set))
    for line, tar, fault in zip(
        lines,
        tars,
        ("sha256 differs", "bytes, not", "is missing", "cannot be read", "describes another shard"),
        strict=False,
    ):
        assert str(tar) in line
        assert fault in line
        assert "rerun `e4t prepare`" in line
    assert len(lines) == 5
