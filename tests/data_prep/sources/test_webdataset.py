import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.records import Record, Reject
from data_prep.sources import open_source

ConfigOf = Callable[..., PrepareConfig]
Fetched = Callable[..., dict[str, bytes]]
Listed = Callable[..., list[Record | Reject]]
Reasons = Callable[..., dict[str, str]]


def shard(path: Path, members: list[tuple[str, bytes | str]], mode: str = "w") -> Path:
    """A tar with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A sample with everything, and one with only a picture."""
    about = {"identity": 7, "caption": "from the json", "age": 31, "tags": ["a"], "columns": {"blur": 0.5}}
    full = [("a/0.png", "picture"), ("a/0.json", json.dumps(about)), ("a/0.txt", "beside\n"), ("a/0.cls", "3")]
    return shard(tmp_path / "one.tar", [*full, ("a/1.jpg", "another")])


def test_a_sample_is_a_picture_with_what_its_neighbours_say(one: Path, listed: Listed) -> None:
    full, bare = listed(one, type="shards")
    assert isinstance(full, Record)
    assert (full.key, full.identity, full.caption, full.source) == ("a__0", "7", "from the json", "one.tar!a/0")
    assert full.columns == {"age": 31, "blur": 0.5, "cls": 3}
    assert isinstance(bare, Record)
    assert (bare.identity, bare.caption, bare.columns) == ("a__1", None, {})


def test_pictures_and_texts_are_read_in_place(one: Path, config_of: ConfigOf) -> None:
    source = open_source(config_of(one, type="shards"))
    records = [item for item in source if isinstance(item, Record)]
    assert [source.read(record) for record in records] == [b"picture", b"another"]
    assert [source.caption(record) for record in records] == ["beside", None]


def test_the_columns_to_take_can_be_named(tmp_path: Path, listed: Listed, reasons: Reasons) -> None:
    about = json.dumps({"who": "Ann", "text": "smiling", "identity": "no", "caption": "no"})
    path = shard(tmp_path / "one.tar", [("0.png", ""), ("0.json", about), ("1.png", ""), ("1.json", "{}")])
    settings = {"type": "shards", "identity_column": "who", "caption_column": "text"}
    record = listed(path, **settings)[0]
    assert isinstance(record, Record)
    assert (record.identity, record.caption) == ("Ann", "smiling")
    assert record.columns == {"identity": "no", "caption": "no"}
    assert reasons(path, **settings) == {"one.tar!1": "no identity in sample"}


def test_the_picture_is_the_first_with_a_plain_suffix(tmp_path: Path, fetched: Fetched) -> None:
    path = shard(tmp_path / "one.tar", [("0.mask.png", "mask"), ("0.jpg", "first"), ("0.png", "second")])
    assert fetched(path, type="shards") == {"0": b"first"}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("0.json", "{}"), ("0.txt", "")], "no image in sample"),
        ([("0.png", ""), ("0.json", "[]")], "bad json in sample"),
        ([("0.png", ""), ("0.json", "{")], "bad json in sample"),
        ([("0.png", ""), ("0.json", " " * (2**20 + 1))], "bad json in sample"),
        ([("../0.png", "")], "unsafe name"),
    ],
)
def test_a_sample_that_is_not_whole_is_rejected(
    tmp_path: Path, members: list[tuple[str, bytes | str]], reason: str, reasons: Reasons
) -> None:
    assert list(reasons(shard(tmp_path / "one.tar", members), type="shards").values()) == [reason]


def test_a_sample_that_comes_again_in_its_shard_is_rejected(tmp_path: Path, listed: Listed) -> None:
    path = shard(tmp_path / "one.tar", [("0.png", ""), ("1.png", ""), ("0.png", "")])
    *_, again = listed(path, type="shards")
    assert isinstance(again, Reject)
    assert again.reason == "duplicate name in archive"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("set-{000..002}.tar", ["set-000.tar", "set-001.tar", "set-002.tar"]),
        ("set-{8..10}.tar", ["set-8.tar", "set-9.tar", "set-10.tar"]),
        ("set-{0..10..5}.tar", ["set-0.tar", "set-5.tar", "set-10.tar"]),
        ("{b,a}/set-{0..1}.tar", ["b/set-0.tar", "b/set-1.tar", "a/set-0.tar", "a/set-1.tar"]),
    ],
)
def test_a_brace_pattern_names_shards_in_order(tmp_path: Path, pattern: str, names: list[str], listed: Listed) -> None:
    for name in names:
        shard(tmp_path / name, [("0.png", name)])
    items = listed(f"{tmp_path}/{pattern}")
    assert [item.source for item in items] == [f"{name}!0" for name in names]
    assert len({item.key for item in items}) == len(names)


def test_a_brace_pattern_that_is_not_balanced_is_one_clear_error(tmp_path: Path, listed: Listed) -> None:
    with pytest.raises(
        DataError, match=r"set-\{0..1.tar: braces are not balanced; give a pattern like \{000..041\}.tar"
    ):
        listed(f"{tmp_path}/set-{{0..1.tar")


def test_a_shard_that_is_missing_from_a_pattern_is_one_clear_error(tmp_path: Path, listed: Listed) -> None:
    shard(tmp_path / "set-0.tar", [("0.png", "")])
    with pytest.raises(DataError, match=r"set-1.tar cannot be read \(No such file or directory\)"):
        listed(f"{tmp_path}/set-{{0..1}}.tar")


def test_after_a_damaged_shard_the_next_is_listed(tmp_path: Path, listed: Listed) -> None:
    path = shard(tmp_path / "set-0.tar", [("0.png", "x" * 2000), ("1.png", "x" * 2000)])
    path.write_bytes(path.read_bytes()[: 512 + 2048 + 300])
    shard(tmp_path / "set-1.tar", [("0.png", "")])
    items = listed(f"{tmp_path}/set-{{0..1}}.tar")
    assert [getattr(item, "reason", item.key) for item in items] == ["set-0__0", "corrupt archive", "set-1__0"]


def test_a_set_of_ours_is_read_again_with_its_keys(shared_set: Path, listed: Listed) -> None:
    records = listed(shared_set)
    assert len(records) == 48
    assert {item.key for item in records} == {f"cat{i:02d}__{j}" for i in range(12) for j in range(4)}
    assert all(isinstance(item, Record) and item.key.startswith(item.identity) for item in records)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_shards_at_a_url_and_compressed_ones_read_the_same(tmp_path: Path, mode: str, fetched: Fetched) -> None:
    ending = ".tar" if mode == "w" else ".tar.gz"
    members: list[tuple[str, bytes | str]] = [("0.json", '{"identity": "Ann"}'), ("0.png", "zero"), ("1.png", "one")]
    data = shard(tmp_path / f"one{ending}", members, mode).read_bytes()
    fsspec.filesystem("memory").pipe(f"/shards/set-0{ending}", data)
    assert fetched(f"memory://shards/set-{{0..0}}{ending}") == {"0": b"zero", "1": b"one"}


def test_a_source_that_was_pickled_lists_and_reads_the_same(one: Path, config_of: ConfigOf) -> None:
    source = open_source(config_of(one, type="shards"))
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own bytes
    records = [item for item in source if isinstance(item, Record)]
    assert list(again) == records
    assert again.read(records[0]) == b"picture"


def test_zips_are_no_shards(tmp_path: Path, listed: Listed) -> None:
    (tmp_path / "one.zip").write_bytes(b"")
    with pytest.raises(DataError, match="no shard; give a .tar, a brace pattern"):
        listed(tmp_path, type="shards")
