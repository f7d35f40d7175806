import io
import json
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.records import Listed, Record, Reject
from data_prep.sources import open_source

ConfigOf = Callable[..., PrepareConfig]
ReadAll = Callable[..., dict[str, bytes]]
ListItems = Callable[..., list[Listed]]
RejectReasons = Callable[..., dict[str, str]]


def shard(path: Path, members: list[tuple[str, bytes | str]], mode: str = "w") -> Path:
    """Write a tar with these members."""
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
    """A sample with every kind of member, and one with only an image."""
    metadata = {"identity": 7, "caption": "from the json", "age": 31, "tags": ["a"], "columns": {"blur": 0.5}}
    full = [("a/0.png", "image"), ("a/0.json", json.dumps(metadata)), ("a/0.txt", "beside\n"), ("a/0.cls", "3")]
    return shard(tmp_path / "one.tar", [*full, ("a/1.jpg", "another")])


def test_a_sample_has_the_metadata_of_its_other_members(one: Path, list_items: ListItems) -> None:
    full, bare = list_items(one, type="shards")
    assert isinstance(full, Record)
    assert (full.key, full.identity, full.caption, full.source) == ("a__0", "7", "from the json", "one.tar!a/0.png")
    assert full.columns == {"age": 31, "blur": 0.5, "cls": 3}
    assert isinstance(bare, Record)
    assert (bare.identity, bare.caption, bare.columns) == ("a__1", None, {})


def test_images_and_captions_are_read_in_place(one: Path, config_of: ConfigOf) -> None:
    source = open_source(config_of(one, type="shards"))
    records = [item for item in source if isinstance(item, Record)]
    assert [source.read(record) for record in records] == [b"image", b"another"]
    assert [source.caption(record) for record in records] == ["beside", None]


def test_identity_and_caption_columns_can_be_set(
    tmp_path: Path, list_items: ListItems, reject_reasons: RejectReasons
) -> None:
    metadata = json.dumps({"who": "Ann", "text": "smiling", "identity": "no", "caption": "no"})
    path = shard(tmp_path / "one.tar", [("0.png", ""), ("0.json", metadata), ("1.png", ""), ("1.json", "{}")])
    settings = {"type": "shards", "identity_column": "who", "caption_column": "text"}
    record = list_items(path, **settings)[0]
    assert isinstance(record, Record)
    assert (record.identity, record.caption) == ("Ann", "smiling")
    assert record.columns == {"identity": "no", "caption": "no"}
    assert reject_reasons(path, **settings) == {"one.tar!1.png": "no identity in sample"}


def test_the_image_is_the_first_member_with_a_single_suffix(tmp_path: Path, read_all: ReadAll) -> None:
    path = shard(tmp_path / "one.tar", [("0.mask.png", "mask"), ("0.jpg", "first"), ("0.png", "second")])
    assert read_all(path, type="shards") == {"0": b"first"}


@pytest.mark.parametrize(
    ("names", "entries"),
    [
        (["0.jpg", "0.png"], {"0.jpg": "0", "0.png": "further image in sample"}),
        (["0.mask.png", "0.jpg"], {"0.jpg": "0", "0.mask.png": "further image in sample"}),
        (["i.2.0.jpg", "i.2.1.jpg", "i.txt"], {"i.2.0.jpg": "i_2_0", "i.2.1.jpg": "i_2_1"}),
        (["i.a.jpg", "i.a.mask.png"], {"i.a.jpg": "i", "i.a.mask.png": "further image in sample"}),
        (["i.2.0.jpg", "x.jpg", "i.2.1.jpg"], {"i.2.0.jpg": "i", "x.jpg": "x", "i.2.1.jpg": "i_2_1"}),
        (["0.jpg", "0.JPG"], {"0.jpg": "0", "0.JPG": "duplicate name in archive"}),
        (["0.jpg", "0.txt", "0.txt"], {"0.jpg": "0", "0.txt": "duplicate name in archive"}),
        (["0.jpg", "x.jpg", "0.mask.png"], {"0.jpg": "0", "x.jpg": "x", "0.mask.png": "duplicate name in archive"}),
        (["0.jpg", "readme.md", "x.zip"], {"0.jpg": "0", "readme.md": "extension .md", "x.zip": "nested archive"}),
        (["0.jpg", "._0.jpg", "__MACOSX/x.jpg"], {"0.jpg": "0", "._0.jpg": "hidden", "__MACOSX/x.jpg": "hidden"}),
    ],
)
def test_every_image_member_is_accounted_for(
    tmp_path: Path, names: list[str], entries: dict[str, str], list_items: ListItems
) -> None:
    items = list_items(shard(tmp_path / "one.tar", [(name, "") for name in names]), type="shards")
    found = {item.source: item.key if isinstance(item, Record) else item.reason for item in items}
    assert {name: re.sub("-[0-9a-f]{10}$", "", entry) for name, entry in found.items()} == {
        f"one.tar!{name}": entry for name, entry in entries.items()
    }


def test_images_of_one_sample_have_their_own_captions_or_share_one(tmp_path: Path, config_of: ConfigOf) -> None:
    members = [("i.2.0.jpg", "zero"), ("i.2.0.txt", "own"), ("i.2.1.jpg", "one"), ("i.txt", "shared")]
    source = open_source(config_of(shard(tmp_path / "one.tar", members), type="shards"))
    records = [item for item in source if isinstance(item, Record)]
    assert [(source.read(record), source.caption(record)) for record in records] == [
        (b"zero", "own"),
        (b"one", "shared"),
    ]


@pytest.mark.parametrize("name", ["0", "0.image", "0.bin"])
def test_a_member_whose_suffix_says_nothing_is_told_by_its_content(
    tmp_path: Path, name: str, list_items: ListItems
) -> None:
    path = shard(tmp_path / "one.tar", [(name, b"\xff\xd8\xff"), ("x.json", "{}"), ("y", "text"), ("z.dat", "text")])
    record, gap, *others = list_items(path, type="shards")
    assert (record.source, isinstance(record, Record)) == (f"one.tar!{name}", True)
    assert getattr(gap, "reason", None) == "no image in sample"
    assert [getattr(item, "reason", None) for item in others] == ["no extension", "extension .dat"]


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
def test_an_invalid_sample_is_rejected(
    tmp_path: Path, members: list[tuple[str, bytes | str]], reason: str, reject_reasons: RejectReasons
) -> None:
    assert list(reject_reasons(shard(tmp_path / "one.tar", members), type="shards").values()) == [reason]


def test_a_duplicate_sample_in_a_shard_is_rejected(tmp_path: Path, list_items: ListItems) -> None:
    path = shard(tmp_path / "one.tar", [("0.png", ""), ("1.png", ""), ("0.png", "")])
    *_, duplicate = list_items(path, type="shards")
    assert isinstance(duplicate, Reject)
    assert duplicate.reason == "duplicate name in archive"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("set-{000..002}.tar", ["set-000.tar", "set-001.tar", "set-002.tar"]),
        ("set-{8..10}.tar", ["set-8.tar", "set-9.tar", "set-10.tar"]),
        ("set-{0..10..5}.tar", ["set-0.tar", "set-5.tar", "set-10.tar"]),
        ("{b,a}/set-{0..1}.tar", ["b/set-0.tar", "b/set-1.tar", "a/set-0.tar", "a/set-1.tar"]),
    ],
)
def test_a_brace_pattern_expands_in_order(
    tmp_path: Path, pattern: str, names: list[str], list_items: ListItems
) -> None:
    for name in names:
        shard(tmp_path / name, [("0.png", name)])
    items = list_items(f"{tmp_path}/{pattern}")
    assert [item.source for item in items] == [f"{name}!0.png" for name in names]
    assert len({item.key for item in items}) == len(names)


def test_an_unbalanced_brace_pattern_is_one_clear_error(tmp_path: Path, list_items: ListItems) -> None:
    with pytest.raises(
        DataError, match=r"set-\{0..1.tar: braces are not balanced; give a pattern like \{000..041\}.tar"
    ):
        list_items(f"{tmp_path}/set-{{0..1.tar")


def test_a_shard_that_is_missing_from_a_pattern_is_one_clear_error(tmp_path: Path, list_items: ListItems) -> None:
    shard(tmp_path / "set-0.tar", [("0.png", "")])
    with pytest.raises(DataError, match=r"set-1.tar does not exist \(No such file or directory\)"):
        list_items(f"{tmp_path}/set-{{0..1}}.tar")


def test_listing_continues_after_a_corrupt_shard(tmp_path: Path, list_items: ListItems) -> None:
    path = shard(tmp_path / "set-0.tar", [("0.png", "x" * 2000), ("1.png", "x" * 2000)])
    path.write_bytes(path.read_bytes()[: 512 + 2048 + 300])
    shard(tmp_path / "set-1.tar", [("0.png", "")])
    items = list_items(f"{tmp_path}/set-{{0..1}}.tar")
    assert [getattr(item, "reason", item.key) for item in items] == ["set-0__0", "corrupt archive", "set-1__0"]


def test_a_prepared_dataset_keeps_its_keys_as_a_source(shared_dataset: Path, list_items: ListItems) -> None:
    records = list_items(shared_dataset)
    assert len(records) == 48
    assert {item.key for item in records} == {f"cat{i:02d}__{j}" for i in range(12) for j in range(4)}
    assert all(isinstance(item, Record) and item.key.startswith(item.identity) for item in records)


def test_a_dataset_of_manifest_version_1_is_still_a_source(list_items: ListItems, read_all: ReadAll) -> None:
    dataset = Path(__file__).parents[2] / "fixtures" / "version_1_dataset"
    records = [item for item in list_items(dataset) if isinstance(item, Record)]
    assert len(records) == 6
    assert len({record.identity for record in records}) == 3
    assert read_all(dataset).keys() == {record.key for record in records}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_shards_at_a_url_and_compressed_ones_read_the_same(tmp_path: Path, mode: str, read_all: ReadAll) -> None:
    ending = ".tar" if mode == "w" else ".tar.gz"
    members: list[tuple[str, bytes | str]] = [("0.json", '{"identity": "Ann"}'), ("0.png", "zero"), ("1.png", "one")]
    data = shard(tmp_path / f"one{ending}", members, mode).read_bytes()
    fsspec.filesystem("memory").pipe(f"/shards/set-0{ending}", data)
    assert read_all(f"memory://shards/set-{{0..0}}{ending}") == {"0": b"zero", "1": b"one"}


def test_a_pickled_source_lists_and_reads_the_same(one: Path, config_of: ConfigOf) -> None:
    source = open_source(config_of(one, type="shards"))
    unpickled = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own bytes
    records = [item for item in source if isinstance(item, Record)]
    assert list(unpickled) == records
    assert unpickled.read(records[0]) == b"image"


def test_zip_files_are_not_shards(tmp_path: Path, list_items: ListItems) -> None:
    (tmp_path / "one.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"no shard; give .tar, .tar.gz, .*, a folder or a pattern of them"):
        list_items(tmp_path, type="shards")
