"""Every entry of a source is kept, rejected or ignored with a reason."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.config import PrepareConfig, ReadConfig
from data_prep.records import Ignored, Listed, Record
from data_prep.sources import open_source
from data_prep.sources.selection import Selection, is_image_path, may_be_image, other_reason

ConfigOf = Callable[..., PrepareConfig]
ListItems = Callable[..., list[Listed]]
Reasons = Callable[..., dict[str, str]]
WriteFiles = Callable[..., Path]

JPEG = b"\xff\xd8\xff\xe0"
ENTRIES = {
    "a/0.png": "",
    "a/.hidden.png": "hidden",
    "a/._0.png": "hidden",
    "a/Thumbs.db": "hidden",
    "a/0.png~": "hidden",
    "a/notes.pdf": "extension .pdf",
    "a/README": "no extension",
    "a/v1.2": "no extension",
    "a/more.ZIP": "nested archive",
    "a/more.tar.zst": "nested archive",
    "a/lonely.txt": "caption without image",
    "a/metadata.csv": "side table",
}
"""Files, and the reasons for which they are ignored."""


def kept(items: list[Listed]) -> list[str]:
    """Return the sources of the records."""
    return [item.source for item in items if isinstance(item, Record)]


@pytest.fixture
def tree(tmp_path: Path, write_files: WriteFiles) -> Path:
    """A folder with every kind of entry."""
    return write_files(tmp_path / "tree", *ENTRIES, "a/0.txt")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip with every kind of entry."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for name in (*ENTRIES, "a/0.txt"):
            file.writestr(name, name)
    return tmp_path / "set.zip"


def test_every_file_of_a_folder_is_kept_or_ignored_with_a_reason(
    tree: Path, list_items: ListItems, ignored: Reasons
) -> None:
    assert ignored(tree) == {name: reason for name, reason in ENTRIES.items() if reason}
    assert kept(list_items(tree)) == ["a/0.png"]
    assert len(list_items(tree)) == len(ENTRIES)


def test_every_member_of_an_archive_is_kept_or_ignored_with_a_reason(
    archive: Path, list_items: ListItems, ignored: Reasons
) -> None:
    assert ignored(archive) == {f"set.zip!{name}": reason for name, reason in ENTRIES.items() if reason}
    assert len(list_items(archive)) == len(ENTRIES)


@pytest.mark.parametrize("name", [".git", "@eaDir", ".ipynb_checkpoints", ".Trash-1000", "$RECYCLE.BIN", "__MACOSX"])
def test_a_hidden_folder_is_one_entry(
    name: str, tmp_path: Path, write_files: WriteFiles, list_items: ListItems, ignored: Reasons
) -> None:
    write_files(tmp_path, "a/0.png", f"{name}/0.png", f"{name}/b/1.png")
    assert ignored(tmp_path) == {f"{name}/": "hidden"}
    assert len(list_items(tmp_path, read={"include_hidden": True})) == 3


def test_a_hidden_source_is_read(tmp_path: Path, write_files: WriteFiles, list_items: ListItems) -> None:
    assert len(kept(list_items(write_files(tmp_path / ".cache", "a/0.png")))) == 1
    with zipfile.ZipFile(tmp_path / ".set.zip", "w") as file:
        file.writestr("a/0.png", "")
    assert len(kept(list_items(tmp_path / ".set.zip"))) == 1


def test_files_beside_archives_are_accounted_for(
    tmp_path: Path, archive: Path, write_files: WriteFiles, ignored: Reasons
) -> None:
    write_files(tmp_path, "readme.md", "._set.zip", "set.json")
    assert [ignored(tmp_path)[name] for name in ("readme.md", "._set.zip", "set.json")] == [
        "extension .md",
        "hidden",
        "side table",
    ]


@pytest.mark.parametrize(
    ("read", "names", "reason"),
    [
        ({"include": ("*.png",)}, ["a/0.png", "b/2.png"], "not included by pattern"),
        ({"exclude": ("b",)}, ["a/0.png", "c/1.jpg"], "excluded by pattern"),
        ({"exclude": ("b/",)}, ["a/0.png", "c/1.jpg"], "excluded by pattern"),
        ({"exclude": ("*/2.*",)}, ["a/0.png", "c/1.jpg"], "excluded by pattern"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "shards", "table"])
def test_patterns_choose_images(
    kind: str,
    read: dict[str, tuple[str, ...]],
    names: list[str],
    reason: str,
    tmp_path: Path,
    write_files: WriteFiles,
    list_items: ListItems,
) -> None:
    files = ["a/0.png", "b/2.png", "c/1.jpg"]
    source = write_files(tmp_path / "tree", *files)
    if kind == "zip":
        source = tmp_path / "set.zip"
        with zipfile.ZipFile(source, "w") as file:
            [file.writestr(name, "") for name in files]
    elif kind == "shards":
        source = tmp_path / "set.tar"
        with tarfile.open(source, "w") as tar:
            [tar.addfile(tarfile.TarInfo(name)) for name in files]
    elif kind == "table":
        source = tmp_path / "tree" / "list.csv"
        source.write_text("\n".join(["image", *files]))
    items = list_items(source, read=read, type="auto" if kind != "shards" else "shards")
    assert [name.rpartition("!")[2] for name in kept(items)] == names
    assert [item.reason for item in items if not isinstance(item, Record)] == [reason]


def test_the_caption_file_of_an_image_needs_no_pattern(tree: Path, config_of: ConfigOf) -> None:
    source = open_source(config_of(tree, read={"include": ("*.png",)}))
    assert [source.caption(item) for item in source if isinstance(item, Record)] == ["a/0.txt"]
    source = open_source(config_of(tree, read={"exclude": ("*.txt",)}))
    assert [source.caption(item) for item in source if isinstance(item, Record)] == [None]


def test_every_caption_file_of_an_image_is_part_of_it(
    tmp_path: Path, write_files: WriteFiles, list_items: ListItems
) -> None:
    names = ["a/0.png", "a/0.txt", "a/0.caption", "a/0.png.txt"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file, pytest.warns(UserWarning, match="Duplicate name"):
        [file.writestr(name, "") for name in (*names, "a/0.txt")]
    assert kept(list_items(write_files(tmp_path / "tree", *names))) == ["a/0.png"]
    assert len(list_items(tmp_path / "tree")) == 1
    record, duplicate = list_items(tmp_path / "set.zip")
    assert isinstance(record, Record)
    assert duplicate == Ignored(source="set.zip!a/0.txt", reason="duplicate name in archive")


@pytest.mark.parametrize("where", ["folder", "zip", "memory"])
def test_a_file_whose_suffix_says_nothing_is_told_by_its_content(
    where: str, tmp_path: Path, list_items: ListItems, ignored: Reasons
) -> None:
    files = {"a/0": JPEG, "a/1.image": JPEG, "a/2.jpg?w=1.5": JPEG, "a/x": b"text", "a/y": b"", "a/BMI": b"BM is text"}
    source: Path | str = tmp_path
    if where == "zip":
        source = tmp_path / "set.zip"
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            [archive.writestr(name, data) for name, data in files.items()]
    elif where == "memory":
        source = "memory://unnamed"
        fsspec.filesystem("memory").pipe({f"/unnamed/{name}": data for name, data in files.items()})
    else:
        (tmp_path / "a").mkdir()
        [(tmp_path / name).write_bytes(data) for name, data in files.items()]
    assert [name.rpartition("!")[2] for name in kept(list_items(source))] == ["a/0", "a/1.image", "a/2.jpg?w=1.5"]
    assert set(ignored(source).values()) == {"no extension"}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
def test_a_pipe_without_suffix_is_rejected(tmp_path: Path, write_files: WriteFiles, reject_reasons: Reasons) -> None:
    os.mkfifo(write_files(tmp_path, "a/0.png") / "a" / "pipe")
    assert reject_reasons(tmp_path) == {"a/pipe": "not a file"}


def test_suffixes_of_images_are_recognized_in_the_forms_of_websites() -> None:
    names = ["a.JPE", "a.jfif", "a.tga", "a.jpg_large", "a.jpg-small", "a.PNG?w=3", "a.heic", "a.hif", "a.jxl", "a.j2k"]
    assert all(is_image_path(name) for name in names)
    assert not any(is_image_path(name) or may_be_image(name) for name in ("a.nef", "a.jpg.gz", "a.pdf", "a.json"))


def test_reasons_are_few() -> None:
    assert [other_reason(name) for name in ("a.x1", "a.0001", "a.a very long text", "a.jpg!", "a.")] == [
        "extension .x1",
        *["no extension"] * 4,
    ]


def test_names_of_dots_are_not_hidden() -> None:
    assert Selection(ReadConfig()).reason_to_ignore("../a/..b/0.png") == "hidden"
    assert Selection(ReadConfig()).reason_to_ignore("../a/0.png") is None


STEMS = ("a", "._a", ".h", "a.2.0", "a.2.1", "A", "a~", "c d", "__MACOSX/a", "d/a", "d/a.x")
SUFFIXES = ("", ".jpg", ".JPG", ".mask.png", ".txt", ".json", ".cls", ".pdf", ".zip", ".bin", ".jpg_large", ".1")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.builds(str.__add__, st.sampled_from(STEMS), st.sampled_from(SUFFIXES)), max_size=9),
    st.sampled_from([b"", JPEG, b"text"]),
    st.sampled_from(["archive", "shards"]),
)
def test_every_image_member_is_listed_once_and_keys_are_unique(
    tmp_path: Path, list_items: ListItems, names: list[str], content: bytes, source_type: str
) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    items = list_items(tmp_path / "set.tar", type=source_type, pattern="{identity}")
    sources = [item.source.removeprefix("set.tar!") for item in items]
    assert all(sources.count(name) == names.count(name) for name in names if is_image_path(name))
    keys = [item.key for item in items if not isinstance(item, Ignored)]
    assert len(set(keys)) == len(keys)
