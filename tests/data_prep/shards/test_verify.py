import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.shards.shard_index import ShardIndex
from data_prep.shards.verify import verify_shards
from data_prep.storage.store import Store
from tests.data_prep.damage import drop_checksums, edit_json, flip_bit

TAR = "train/train-000001.tar"
REBUILD = "delete the shard and rerun `e4t prepare`: only it is rebuilt"


@pytest.fixture
def dataset(shared_dataset: Path, tmp_path: Path) -> Path:
    """A dataset that the test may damage."""
    return shutil.copytree(shared_dataset, tmp_path / "copy")


def keys(dataset: Path) -> list[str]:
    return list(ShardIndex.load(Store(str(dataset)), TAR).members)


@pytest.mark.parametrize("version", [2, 3])
def test_an_intact_dataset_has_no_problems(dataset: Path, version: int) -> None:
    if version == 2:
        drop_checksums(dataset)
    assert list(verify_shards(dataset)) == []


def test_a_changed_member_is_named_with_its_sample(dataset: Path) -> None:
    index = ShardIndex.load(Store(str(dataset)), TAR)
    first, second, _ = index.members
    flip_bit(dataset / TAR, index.members[first]["png"].offset)
    flip_bit(dataset / TAR, index.members[second]["json"].offset + 20)
    assert list(verify_shards(dataset)) == [
        f"shard {dataset}/{TAR}: sample {first}: its png does not match its checksum; {REBUILD}",
        f"shard {dataset}/{TAR}: sample {second}: its json does not match its checksum; {REBUILD}",
    ]


def test_a_change_between_the_members_is_found(dataset: Path) -> None:
    flip_bit(dataset / TAR, (dataset / TAR).stat().st_size - 1)
    (line,) = verify_shards(dataset)
    assert "was changed after it was written (sha256 differs); delete the shard" in line


def test_the_samples_behind_a_damaged_header_are_one_problem(dataset: Path) -> None:
    index = ShardIndex.load(Store(str(dataset)), TAR)
    _, second, _ = index.members
    flip_bit(dataset / TAR, index.members[second]["png"].offset - 512)
    (line,) = verify_shards(dataset)
    assert f"sample {second}: the tar has no member {second}.png, nor 3 others that the index lists" in line


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda tar: os.truncate(tar, tar.stat().st_size - 1), "was changed after it was written ("),
        (lambda tar: tar.unlink(), "is missing; rerun"),
        (lambda tar: tar.with_suffix(".json").unlink(), "its index cannot be read"),
        (
            lambda tar: shutil.copy(tar.with_name("train-000002.json"), tar.with_suffix(".json")),
            "its index describes another shard",
        ),
        (
            lambda tar: edit_json(tar.with_suffix(".json"), lambda index: index.update(config_digest="0" * 64)),
            "its index describes another shard",
        ),
    ],
    ids=["truncated", "missing", "no index", "index of another shard", "another configuration"],
)
def test_a_shard_that_does_not_belong_to_its_manifest_is_named(
    dataset: Path, damage: Callable[[Path], object], problem: str
) -> None:
    damage(dataset / TAR)
    (line,) = verify_shards(dataset)
    assert line.startswith(f"shard {dataset}/{TAR}")
    assert problem in line
    assert "rerun `e4t prepare`" in line


def exchange(members: dict[str, Any], extension: str) -> None:
    """Exchange members of equal size between the first two samples."""
    first, second, *_ = members.values()
    first[extension], second[extension] = second[extension], first[extension]


def shift(members: dict[str, Any], by: int) -> None:
    next(iter(members.values()))["json"][0] += by


def rename(members: dict[str, Any]) -> None:
    renamed = {f"{key}x" if row == 0 else key: parts for row, (key, parts) in enumerate(members.items())}
    members.clear()
    members.update(renamed)


@pytest.mark.parametrize("version", [2, 3])
def test_an_index_with_a_wrong_offset_is_found(dataset: Path, version: int) -> None:
    if version == 2:
        drop_checksums(dataset)
    edit_json((dataset / TAR).with_suffix(".json"), lambda index: shift(index["members"], 1))
    (line,) = verify_shards(dataset)
    assert f"sample {keys(dataset)[0]}: the index locates" in line
    assert line.endswith(REBUILD)


@pytest.mark.parametrize("version", [2, 3])
def test_an_index_with_a_wrong_key_is_found(dataset: Path, version: int) -> None:
    if version == 2:
        drop_checksums(dataset)

    def change(index: dict[str, Any]) -> None:
        rename(index["members"])
        rename(index["sample_stats"])

    right = keys(dataset)[0]
    edit_json((dataset / TAR).with_suffix(".json"), change)
    lines = list(verify_shards(dataset))
    assert f"sample {right}: its png is not in the index" in lines[0]
    assert f"sample {right}x: the tar has no member {right}x.png, nor 1 others" in lines[1]


def test_statistics_of_another_image_are_found(dataset: Path) -> None:
    key = keys(dataset)[1]
    edit_json((dataset / TAR).with_suffix(".json"), lambda index: index["sample_stats"][key].update(sha256="0" * 64))
    (line,) = verify_shards(dataset)
    assert f"sample {key}: its json has other metadata than the index" in line


def test_a_wrong_number_of_identities_is_found(dataset: Path) -> None:
    edit_json(dataset / "manifest.json", lambda manifest: manifest["identities"].update(train=99))
    (line,) = verify_shards(dataset)
    assert "manifest.json counts 99 identities in train, and the shards have" in line


def test_many_damaged_samples_are_summed_up(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.shards.verify.MAX_SAMPLES_LISTED", 1)
    index = ShardIndex.load(Store(str(dataset)), TAR)
    for parts in index.members.values():
        flip_bit(dataset / TAR, parts["png"].offset)
    first, rest = verify_shards(dataset)
    assert "does not match its checksum" in first
    assert "2 further samples are damaged" in rest
