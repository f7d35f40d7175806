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
from data_prep.errors import DataError
from data_prep.records import Record, Reject
from data_prep.sources import open_source

ConfigOf = Callable[..., PrepareConfig]
Listed = Callable[..., list[Record | Reject]]
Put = Callable[..., Path]
Reasons = Callable[..., dict[str, str]]

posix = pytest.mark.skipif(os.name != "posix", reason="of POSIX only")


@pytest.fixture
def memory() -> str:
    """A folder of pictures that is on no disk."""
    fs = fsspec.filesystem("memory")
    if fs.exists("/pictures"):
        fs.rm("/pictures", recursive=True)
    for name in ("b/2.jpg", "a/10.png", "a/9.PNG", "a/readme.md"):
        fs.pipe(f"/pictures/{name}", name.encode())
    fs.pipe("/pictures/a/10.txt", b"ten\n")
    return "memory://pictures"


def test_pictures_come_in_the_order_of_their_paths_and_other_files_do_not(
    tmp_path: Path, put: Put, listed: Listed
) -> None:
    put(tmp_path, "b/2.jpg", "a/10.png", "a/9.PNG", "a/9.txt", "a/readme.md")
    assert [record.source for record in listed(tmp_path)] == ["a/10.png", "a/9.PNG", "b/2.jpg"]


def test_keys_have_no_dot_and_no_slash_and_no_two_are_alike(tmp_path: Path, put: Put, listed: Listed) -> None:
    put(tmp_path, "a.b/x.1.png", "a_b/x_1.png", "a_b/x 1.png", "a_b/x_1.jpg", "ana/été.png")
    keys = [record.key for record in listed(tmp_path)]
    assert len(set(keys)) == 5
    assert not any(letter in key for key in keys for letter in "./ ")
    assert {"a_b__x_1", "ana__été"} < set(keys)


def test_the_pattern_says_where_the_identity_stands(tmp_path: Path, put: Put, listed: Listed) -> None:
    put(tmp_path, "2024/ann_lee_01.png", "2024/noname.png")
    record, reject = listed(tmp_path, pattern="{year}/{identity}_{picture}")
    assert isinstance(record, Record)
    assert record.identity == "ann_lee"
    assert reject == Reject(key="2024__noname", source="2024/noname.png", reason="path names no identity")


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path, put: Put, listed: Listed) -> None:
    put(tmp_path, "set/ann/1.png", "disk/bob/1.png")
    (tmp_path / "set" / "bob").symlink_to(tmp_path / "disk" / "bob")
    (tmp_path / "set" / "ann" / "again").symlink_to(tmp_path / "set")
    assert [record.source for record in listed(tmp_path / "set")] == ["ann/1.png", "bob/1.png"]


@posix
def test_what_must_not_be_opened_is_rejected(tmp_path: Path, put: Put, reasons: Reasons) -> None:
    put(tmp_path, "ann/1.png")
    os.mkfifo(tmp_path / "ann" / "pipe.png")
    (tmp_path / "ann" / "self.png").symlink_to(tmp_path / "ann" / "self.png")
    (tmp_path / "ann" / "nothing.png").symlink_to(tmp_path / "nowhere.png")
    names = ["ann/pipe.png", "ann/self.png", "ann/nothing.png"]
    if len(str(tmp_path)) < 80:  # the longest name that a socket can have is not much more
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(tmp_path / "ann" / "socket.png"))
        names.append("ann/socket.png")
    assert reasons(tmp_path) == dict.fromkeys(names, "not a file")


@posix
def test_a_name_that_is_no_text_is_rejected_and_can_be_printed(tmp_path: Path, put: Put, reasons: Reasons) -> None:
    put(tmp_path, "ann/1.png")
    try:
        Path(os.fsdecode(bytes(tmp_path / "ann") + b"/\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert reasons(tmp_path) == {"ann/\\udcff.png": "name is not UTF-8"}


def test_a_file_that_is_too_large_for_a_picture_is_rejected(tmp_path: Path, put: Put, reasons: Reasons) -> None:
    put(tmp_path, "ann/1.png", "ann/2.png")
    os.truncate(tmp_path / "ann" / "2.png", 2**29 + 1)  # takes no room
    assert reasons(tmp_path) == {"ann/2.png": "file too large"}


def test_a_missing_folder_is_one_clear_error(tmp_path: Path, listed: Listed) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder; give a folder of images as data.source"):
        listed(tmp_path / "nowhere")


@posix
def test_a_folder_that_cannot_be_listed_is_one_clear_error(
    listed: Listed, ordinary_user: Callable[[], AbstractContextManager[None]]
) -> None:
    refused = pytest.raises(DataError, match=r"ann cannot be listed \(Permission denied\); make it readable")
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        Path(root, "ann").mkdir(mode=0)
        with ordinary_user(), refused:
            listed(root)


def test_the_caption_is_the_first_line_beside_the_picture(tmp_path: Path, put: Put, config_of: ConfigOf) -> None:
    put(tmp_path, "ann/0.png", "ann/1.png", "ann/2.png", "ann/3.png")
    (tmp_path / "ann" / "0.txt").write_bytes("\ufeff\n  a caf\u00e9 \nmore".encode())
    (tmp_path / "ann" / "1.txt").write_text("\n  \n")
    (tmp_path / "ann" / "2.txt").write_bytes(b"caf\xe9")
    source = open_source(config_of(tmp_path))
    assert [source.caption(item) for item in source if isinstance(item, Record)] == [
        "a café",
        None,
        "caf\ufffd",
        None,
    ]


def test_of_a_caption_only_the_beginning_is_read(tmp_path: Path, put: Put, config_of: ConfigOf) -> None:
    put(tmp_path, "ann/0.png")
    (tmp_path / "ann" / "0.txt").write_text("x" * 100_000)
    source = open_source(config_of(tmp_path))
    assert [len(source.caption(item) or "") for item in source if isinstance(item, Record)] == [65_536]


@pytest.mark.parametrize("changed", ["ann/0.png", "ann/0.txt"])
def test_the_stamp_changes_with_the_picture_and_with_its_caption(
    tmp_path: Path, put: Put, listed: Listed, changed: str
) -> None:
    put(tmp_path, "ann/0.png", "ann/0.txt")
    before = listed(tmp_path)
    assert listed(tmp_path) == before
    os.utime(tmp_path / changed, (1, 1))
    assert listed(tmp_path) != before


def test_a_picture_that_is_gone_is_an_os_error(tmp_path: Path, put: Put, config_of: ConfigOf) -> None:
    source = open_source(config_of(put(tmp_path, "ann/0.png")))
    (record,) = source
    (tmp_path / "ann" / "0.png").unlink()
    with pytest.raises(OSError, match="No such file"):
        source.read(record)  # type: ignore[arg-type]


def test_a_folder_at_a_url_lists_and_reads_like_one_here(memory: str, config_of: ConfigOf) -> None:
    source = open_source(config_of(memory))
    records = [item for item in source if isinstance(item, Record)]
    assert [(record.source, record.key, record.identity) for record in records] == [
        ("a/10.png", "a__10", "a"),
        ("a/9.PNG", "a__9", "a"),
        ("b/2.jpg", "b__2", "b"),
    ]
    assert [source.read(record) for record in records] == [b"a/10.png", b"a/9.PNG", b"b/2.jpg"]
    assert [source.caption(record) for record in records] == ["ten", None, None]


def test_a_change_at_a_url_changes_the_stamp(memory: str, listed: Listed) -> None:
    before = listed(memory)
    assert listed(memory) == before
    fsspec.filesystem("memory").pipe("/pictures/b/2.jpg", b"another")
    assert [new.source for new, old in zip(listed(memory), before, strict=True) if new != old] == ["b/2.jpg"]


def test_a_missing_folder_at_a_url_is_one_clear_error(listed: Listed) -> None:
    with pytest.raises(DataError, match="memory://nowhere: no such folder"):
        listed("memory://nowhere")


def test_a_scheme_that_is_not_known_is_one_clear_error(listed: Listed) -> None:
    with pytest.raises(DataError, match=r"source fax://pictures cannot be opened .*; check data.source"):
        listed("fax://pictures")


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_source_that_was_pickled_lists_the_same(
    where: str, tmp_path: Path, put: Put, memory: str, config_of: ConfigOf
) -> None:
    source = open_source(config_of(memory if where == "memory" else put(tmp_path, "a/0.png", "a/0.txt", "b/1.png")))
    assert list(pickle.loads(pickle.dumps(source))) == list(source)  # noqa: S301 - our own bytes


def test_a_folder_is_listed_when_it_is_reached(tmp_path: Path, put: Put, config_of: ConfigOf) -> None:
    found = iter(open_source(config_of(put(tmp_path, "a/0.png", "b/0.png"))))
    next(found)
    put(tmp_path, "b/1.png")
    assert [item.source for item in found] == ["b/0.png", "b/1.png"]
