import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import fsspec
import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError, SourceChangedError
from data_prep.records import Ignored, Listed, Record, Reject
from data_prep.sources import open_source

ConfigOf = Callable[..., PrepareConfig]
ListItems = Callable[..., list[Listed]]
WriteFiles = Callable[..., Path]
RejectReasons = Callable[..., dict[str, str]]

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@pytest.fixture
def memory() -> str:
    """A folder of images in fsspec's memory file system."""
    fs = fsspec.filesystem("memory")
    if fs.exists("/images"):
        fs.rm("/images", recursive=True)
    for name in ("b/2.jpg", "a/10.png", "a/9.PNG", "a/readme.md"):
        fs.pipe(f"/images/{name}", name.encode())
    fs.pipe("/images/a/10.txt", b"ten\n")
    return "memory://images"


def test_only_images_are_listed_in_path_order(tmp_path: Path, write_files: WriteFiles, list_items: ListItems) -> None:
    write_files(tmp_path, "b/2.jpg", "a/10.png", "a/9.PNG", "a/9.txt", "a/readme.md")
    assert [item.source for item in list_items(tmp_path) if isinstance(item, Record)] == [
        "a/10.png",
        "a/9.PNG",
        "b/2.jpg",
    ]


def test_keys_are_unique_and_contain_no_dots_or_slashes(
    tmp_path: Path, write_files: WriteFiles, list_items: ListItems
) -> None:
    write_files(tmp_path, "a.b/x.1.png", "a_b/x_1.png", "a_b/x 1.png", "a_b/x_1.jpg", "ana/été.png")
    keys = [record.key for record in list_items(tmp_path)]
    assert len(set(keys)) == 5
    assert not any(letter in key for key in keys for letter in "./ ")
    assert {"a_b__x_1", "ana__été"} < set(keys)


def test_the_pattern_extracts_the_identity(tmp_path: Path, write_files: WriteFiles, list_items: ListItems) -> None:
    write_files(tmp_path, "2024/ann_lee_01.png", "2024/noname.png")
    record, reject = list_items(tmp_path, pattern="{year}/{identity}_{picture}")
    assert isinstance(record, Record)
    assert record.identity == "ann_lee"
    assert reject == Reject(key="2024__noname", source="2024/noname.png", reason="path names no identity")


def test_linked_folders_are_followed_and_loops_are_ignored(
    tmp_path: Path, write_files: WriteFiles, list_items: ListItems
) -> None:
    write_files(tmp_path, "set/ann/1.png", "disk/bob/1.png")
    (tmp_path / "set" / "bob").symlink_to(tmp_path / "disk" / "bob")
    (tmp_path / "set" / "ann" / "again").symlink_to(tmp_path / "set")
    first, loop, second = list_items(tmp_path / "set")
    assert [first.source, second.source] == ["ann/1.png", "bob/1.png"]
    assert loop == Ignored(source="ann/again/", reason="loop of links")


@posix
def test_pipes_sockets_and_broken_links_are_rejected(
    tmp_path: Path, write_files: WriteFiles, reject_reasons: RejectReasons
) -> None:
    write_files(tmp_path, "ann/1.png")
    os.mkfifo(tmp_path / "ann" / "pipe.png")
    (tmp_path / "ann" / "self.png").symlink_to(tmp_path / "ann" / "self.png")
    (tmp_path / "ann" / "nothing.png").symlink_to(tmp_path / "nowhere.png")
    names = ["ann/pipe.png", "ann/self.png", "ann/nothing.png"]
    if len(str(tmp_path)) < 80:  # socket paths are limited to about 100 bytes
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(tmp_path / "ann" / "socket.png"))
        names.append("ann/socket.png")
    assert reject_reasons(tmp_path) == dict.fromkeys(names, "not a file")


@posix
def test_a_name_that_is_not_utf8_is_rejected_and_escaped(
    tmp_path: Path, write_files: WriteFiles, reject_reasons: RejectReasons
) -> None:
    write_files(tmp_path, "ann/1.png")
    try:
        Path(os.fsdecode(bytes(tmp_path / "ann") + b"/\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert reject_reasons(tmp_path) == {"ann/\\udcff.png": "name is not UTF-8"}


def test_a_file_over_the_size_limit_is_rejected(
    tmp_path: Path, write_files: WriteFiles, reject_reasons: RejectReasons
) -> None:
    write_files(tmp_path, "ann/1.png", "ann/2.png")
    os.truncate(tmp_path / "ann" / "2.png", 2**29 + 1)  # a sparse file
    assert reject_reasons(tmp_path) == {"ann/2.png": "file too large"}


def test_a_missing_folder_is_one_clear_error(tmp_path: Path, list_items: ListItems) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder; give a folder of images as data.source"):
        list_items(tmp_path / "nowhere")


@posix
def test_a_folder_that_cannot_be_listed_is_one_clear_error(
    list_items: ListItems, ordinary_user: Callable[[], AbstractContextManager[None]]
) -> None:
    refused = pytest.raises(DataError, match=r"ann cannot be read \(Permission denied\); try again when it is readable")
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        Path(root, "ann").mkdir(mode=0)
        with ordinary_user(), refused:
            list_items(root)


@pytest.mark.parametrize("changed", ["ann/0.png", "ann/0.txt"])
def test_the_version_changes_with_the_image_and_with_its_caption(
    tmp_path: Path, write_files: WriteFiles, list_items: ListItems, changed: str
) -> None:
    write_files(tmp_path, "ann/0.png", "ann/0.txt")
    before = list_items(tmp_path)
    assert list_items(tmp_path) == before
    os.utime(tmp_path / changed, (1, 1))
    assert list_items(tmp_path) != before


def test_an_image_that_is_gone_since_it_was_listed_is_one_clear_error(
    tmp_path: Path, write_files: WriteFiles, config_of: ConfigOf
) -> None:
    source = open_source(config_of(write_files(tmp_path, "ann/0.png")))
    (record,) = source
    (tmp_path / "ann" / "0.png").unlink()
    with pytest.raises(SourceChangedError, match="0.png was changed since it was listed .*it is gone"):
        source.read(record)  # type: ignore[arg-type]


def test_a_folder_at_a_url_lists_and_reads_like_a_local_one(memory: str, config_of: ConfigOf) -> None:
    source = open_source(config_of(memory))
    records = [item for item in source if isinstance(item, Record)]
    assert [(record.source, record.key, record.identity) for record in records] == [
        ("a/10.png", "a__10", "a"),
        ("a/9.PNG", "a__9", "a"),
        ("b/2.jpg", "b__2", "b"),
    ]
    assert [source.read(record) for record in records] == [b"a/10.png", b"a/9.PNG", b"b/2.jpg"]
    assert [source.caption(record) for record in records] == ["ten", None, None]


def test_a_change_at_a_url_changes_the_version(memory: str, list_items: ListItems) -> None:
    before = list_items(memory)
    assert list_items(memory) == before
    fsspec.filesystem("memory").pipe("/images/b/2.jpg", b"another")
    assert [new.source for new, old in zip(list_items(memory), before, strict=True) if new != old] == ["b/2.jpg"]


def test_a_missing_folder_at_a_url_is_one_clear_error(list_items: ListItems) -> None:
    with pytest.raises(DataError, match="memory://nowhere: no such folder"):
        list_items("memory://nowhere")


def test_an_unknown_url_scheme_is_one_clear_error(list_items: ListItems) -> None:
    with pytest.raises(DataError, match=r"source fax://images cannot be opened .*; check data.source"):
        list_items("fax://images")


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_pickled_source_lists_the_same(
    where: str, tmp_path: Path, write_files: WriteFiles, memory: str, config_of: ConfigOf
) -> None:
    source = open_source(
        config_of(memory if where == "memory" else write_files(tmp_path, "a/0.png", "a/0.txt", "b/1.png"))
    )
    assert list(pickle.loads(pickle.dumps(source))) == list(source)  # noqa: S301 - our own bytes


def test_folders_are_listed_lazily(tmp_path: Path, write_files: WriteFiles, config_of: ConfigOf) -> None:
    items = iter(open_source(config_of(write_files(tmp_path, "a/0.png", "b/0.png"))))
    next(items)
    write_files(tmp_path, "b/1.png")
    assert [item.source for item in items] == ["b/0.png", "b/1.png"]
