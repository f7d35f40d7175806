import io
import os
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.records import Record, Reject
from data_prep.sources import open_source

ConfigOf = Callable[..., PrepareConfig]
ReadAll = Callable[..., dict[str, bytes]]
ListItems = Callable[..., list[Record | Reject]]

IMAGES = {"a/0.png": b"a0", "a/1.png": b"a1", "b/0.jpg": b"b0"}
ENDINGS = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"]

every_ending = pytest.mark.parametrize("ending", ENDINGS)


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive in the format of its suffix."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@every_ending
def test_images_are_listed_in_archive_order_and_read(tmp_path: Path, ending: str, read_all: ReadAll) -> None:
    archive = pack(tmp_path / f"set{ending}", IMAGES | {"readme.md": b""})
    assert list(read_all(archive).items()) == [("a__0", b"a0"), ("a__1", b"a1"), ("b__0", b"b0")]


def test_the_source_names_the_archive_and_the_member(tmp_path: Path, list_items: ListItems) -> None:
    archive = pack(tmp_path / "set.zip", IMAGES)
    assert [item.source for item in list_items(archive)] == ["set.zip!a/0.png", "set.zip!a/1.png", "set.zip!b/0.jpg"]


@every_ending
def test_the_caption_is_the_first_line_of_the_text_member_of_the_same_name(
    tmp_path: Path, ending: str, config_of: ConfigOf
) -> None:
    files = {"a/0.txt": b"\nbefore\n", "a/0.png": b"", "a/1.png": b"", "b/0.JPG": b"", "b/0.TXT": b"x" * 100_000}
    source = open_source(config_of(pack(tmp_path / f"set{ending}", files)))
    assert [source.caption(item) for item in source if isinstance(item, Record)] == ["before", None, "x" * 100_000]


@every_ending
def test_a_pickled_source_lists_and_reads_the_same(tmp_path: Path, ending: str, config_of: ConfigOf) -> None:
    source = open_source(config_of(pack(tmp_path / f"set{ending}", IMAGES)))
    records = [item for item in source if isinstance(item, Record)]
    source.read(records[0])
    unpickled = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own bytes
    assert list(unpickled) == records
    assert [unpickled.read(record) for record in records] == [b"a0", b"a1", b"b0"]


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_threads_may_read_in_any_order(tmp_path: Path, ending: str, config_of: ConfigOf) -> None:
    files = {f"a/{number}.png": random.Random(number).randbytes(50_000) for number in range(60)}
    source = open_source(config_of(pack(tmp_path / f"set{ending}", files)))
    records = [item for item in source if isinstance(item, Record)]
    random.Random(0).shuffle(records)
    with ThreadPoolExecutor(8) as pool:
        read = pool.map(source.read, records)
    assert dict(zip([record.source for record in records], read, strict=True)) == {
        f"set{ending}!{name}": data for name, data in files.items()
    }


def test_two_files_that_differ_by_suffix_have_different_keys(tmp_path: Path, read_all: ReadAll) -> None:
    read = read_all(pack(tmp_path / "set.tar", {"a/0.png": b"first", "a/0.jpg": b"second"}))
    assert sorted(read.values()) == [b"first", b"second"]
    assert read["a__0"] == b"first"


def test_keys_of_several_archives_start_with_the_archive_name(tmp_path: Path, read_all: ReadAll) -> None:
    for ending in (".zip", ".tar", ".tar.gz"):
        pack(tmp_path / f"one{ending}", {"a/0.png": ending.encode()})
    pack(tmp_path / "two.zip", {"a/0.png": b"two"})
    read = read_all(tmp_path)
    assert sorted(read.values()) == [b".tar", b".tar.gz", b".zip", b"two"]
    assert (read["one__a__0"], read["two__a__0"]) == (b".tar", b"two")


def test_a_pattern_matches_archives_in_any_folder(tmp_path: Path, read_all: ReadAll) -> None:
    for name in ("x/one.tar", "y/one.tar", "y/two.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pack(tmp_path / name, {"a/0.png": name.encode()})
    assert sorted(read_all(f"{tmp_path}/*/*.tar").values()) == [b"x/one.tar", b"y/one.tar"]
    assert list(read_all(f"{tmp_path}/y/t*.zip").values()) == [b"y/two.zip"]


def test_archives_at_a_url_are_read_by_byte_ranges(tmp_path: Path, read_all: ReadAll) -> None:
    fs = fsspec.filesystem("memory")
    for ending in ENDINGS:
        fs.pipe(f"/archives/set{ending}", pack(tmp_path / f"set{ending}", IMAGES).read_bytes())
        assert list(read_all(f"memory://archives/set{ending}").values()) == [b"a0", b"a1", b"b0"]
    assert len(read_all("memory://archives/*.tar*")) == 4 * 3
    assert len(read_all("memory://archives")) == 6 * 3


@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_records_do_not_depend_on_the_folder_of_the_archive(tmp_path: Path, ending: str, list_items: ListItems) -> None:
    archive = pack(tmp_path / f"set{ending}", IMAGES)
    before = list_items(archive)
    (tmp_path / "moved").mkdir()
    assert list_items(archive.rename(tmp_path / "moved" / archive.name)) == before


@every_ending
def test_the_version_changes_with_the_content(tmp_path: Path, ending: str, list_items: ListItems) -> None:
    archive = pack(tmp_path / f"set{ending}", IMAGES)
    before = list_items(archive)
    pack(archive, IMAGES | {"a/0.png": b"A0"})
    os.utime(archive, (1, 1))
    assert list_items(archive)[0] != before[0]


def test_listing_continues_after_a_corrupt_archive(tmp_path: Path, list_items: ListItems) -> None:
    (tmp_path / "one.tar").write_bytes(b"no tar" * 100)
    pack(tmp_path / "two.tar", {"a/0.png": b""})
    broken, record = list_items(tmp_path)
    assert isinstance(broken, Reject)
    assert (broken.reason, broken.source, record.key) == ("corrupt archive", "one.tar", "two__a__0")


def test_a_missing_archive_is_one_clear_error(tmp_path: Path, list_items: ListItems) -> None:
    with pytest.raises(DataError, match=r"nowhere.zip does not exist \(No such file or directory\)"):
        list_items(tmp_path / "nowhere.zip")
    with pytest.raises(DataError, match=r"no such archive; give .zip, .tar, .tar.gz"):
        list_items(tmp_path / "*.tar")


def test_a_chained_url_names_a_folder_or_a_file_in_an_archive(
    tmp_path: Path, read_all: ReadAll, list_items: ListItems
) -> None:
    table = {"list.csv": b"image\na/0.png\n", "inner.tar": pack(tmp_path / "inner.tar", IMAGES).read_bytes()}
    archive = pack(tmp_path / "set.zip", IMAGES | table)
    assert list(read_all(f"zip::{archive}").values()) == [b"a0", b"a1", b"b0"]
    assert list(read_all(f"zip://list.csv::{archive}").values()) == [b"a0"]
    assert list(read_all(f"zip://inner.tar::{archive}").values()) == [b"a0", b"a1", b"b0"]
    for source in (f"zip::{tmp_path}/nowhere.zip", f"zip://list.csv::{tmp_path}/nowhere.zip"):
        with pytest.raises(DataError, match=r"nowhere.zip does not exist \(.*\); check data.source"):
            list_items(source)
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        list_items(f"zip::{tmp_path}")
