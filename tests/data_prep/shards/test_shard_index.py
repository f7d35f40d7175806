import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import DataError
from data_prep.shards.shard_index import ShardIndex
from data_prep.storage.store import Store
from tests.data_prep.damage import drop_checksums, edit_json

TAR = "train/train-000001.tar"
Index = dict[str, Any]


@pytest.fixture
def dataset(shared_dataset: Path, tmp_path: Path) -> Path:
    """A dataset that the test may damage."""
    return shutil.copytree(shared_dataset, tmp_path / "copy")


def parts_of(index: Index, row: int) -> dict[str, list[Any]]:
    """Return the members of a sample."""
    parts: dict[str, list[Any]] = list(index["members"].values())[row]
    return parts


def swap_samples(index: Index) -> None:
    index["members"] = dict(reversed(index["members"].items()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda index: parts_of(index, 0)["png"].__setitem__(0, -512), "cannot have .* bytes at byte -512"),
        (lambda index: parts_of(index, 0)["png"].__setitem__(0, 512.0), "bytes at byte 512.0"),
        (lambda index: parts_of(index, 0)["png"].__setitem__(1, -1), "cannot have -1 bytes"),
        (lambda index: parts_of(index, 1)["png"].__setitem__(0, 512), "at byte 512"),
        (lambda index: parts_of(index, 2)["json"].__setitem__(1, 10**9), "members end at byte 10.* of a tar of"),
        (lambda index: parts_of(index, 1)["json"].pop(), "has the checksum None"),
        (swap_samples, "at byte"),
        (lambda index: index["members"].popitem(), "lists 2 samples and counts 3"),
        (lambda index: index.update(samples=4), "lists 3 samples and counts 4"),
        (lambda index: index["sample_stats"].popitem(), "lacks the statistics of 1 samples"),
        (lambda index: index.update(members=[1, 2]), "no attribute"),
        (lambda index: index.update(something="new"), "something"),
    ],
    ids=[
        "negative offset",
        "offset is no integer",
        "negative size",
        "overlapping",
        "beyond the end",
        "no checksum",
        "other order",
        "sample missing",
        "wrong count",
        "statistics missing",
        "no object",
        "unknown key",
    ],
)
def test_an_index_that_cannot_be_right_is_refused(
    dataset: Path, damage: Callable[[Index], object], message: str
) -> None:
    edit_json((dataset / TAR).with_suffix(".json"), damage)
    with pytest.raises(DataError, match=rf"^shard .*{TAR}: its index cannot be read \(.*{message}.*`e4t prepare`"):
        ShardIndex.load(Store(str(dataset)), TAR)


def test_an_index_with_the_same_key_twice_is_refused(dataset: Path) -> None:
    path = (dataset / TAR).with_suffix(".json")
    members = json.dumps(json.loads(path.read_text())["members"])
    first = members[1 : members.index("}") + 1]
    path.write_text(path.read_text().replace(members, f"{{{first}, {members[1:]}"))
    with pytest.raises(DataError, match="a key occurs twice"):
        ShardIndex.load(Store(str(dataset)), TAR)


def test_a_truncated_index_is_refused(dataset: Path) -> None:
    path = (dataset / TAR).with_suffix(".json")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match="its index cannot be read"):
        ShardIndex.load(Store(str(dataset)), TAR)


def test_an_index_of_version_2_has_no_checksums(dataset: Path) -> None:
    expected = ShardIndex.load(Store(str(dataset)), TAR).members
    drop_checksums(dataset)
    members = ShardIndex.load(Store(str(dataset)), TAR).members
    assert {key: {name: part[:2] for name, part in parts.items()} for key, parts in members.items()} == {
        key: {name: part[:2] for name, part in parts.items()} for key, parts in expected.items()
    }
    assert {part.checksum for parts in members.values() for part in parts.values()} == {None}
