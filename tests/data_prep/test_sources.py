import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.sources import FolderSource, Record, Reject, caption_of

Draw = Callable[..., Image.Image]


def put(root: Path, *names: str) -> Path:
    """Files of these names; what is in them does not matter before they are opened."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def found(root: Path, pattern: str = "{identity}/{picture}") -> list[Record | Reject]:
    return list(FolderSource(root=root, pattern=pattern))


def test_pictures_come_in_the_order_of_their_paths_and_other_files_do_not(tmp_path: Path) -> None:
    put(tmp_path, "b/2.jpg", "a/10.png", "a/9.PNG", "a/9.txt", "a/readme.md")
    assert [record.source for record in found(tmp_path)] == ["a/10.png", "a/9.PNG", "b/2.jpg"]


def test_keys_have_no_dot_and_no_slash_and_no_two_are_alike(tmp_path: Path) -> None:
    put(tmp_path, "a.b/x.1.png", "a_b/x_1.png", "a_b/x 1.png", "a_b/x_1.jpg", "ana/été.png")
    keys = [record.key for record in found(tmp_path)]
    assert len(set(keys)) == 5
    assert not any(letter in key for key in keys for letter in "./ ")
    assert "ana__été" in keys


def test_the_pattern_says_where_the_identity_stands(tmp_path: Path) -> None:
    put(tmp_path, "2024/ann_lee_01.png", "2024/noname.png")
    record, reject = found(tmp_path, "{year}/{identity}_{picture}")
    assert isinstance(record, Record)
    assert record.identity == "ann_lee"
    assert reject == Reject(key="2024__noname", source="2024/noname.png", reason="path names no identity")


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    put(tmp_path, "set/ann/1.png", "disk/bob/1.png")
    (tmp_path / "set" / "bob").symlink_to(tmp_path / "disk" / "bob")
    (tmp_path / "set" / "ann" / "again").symlink_to(tmp_path / "set")
    assert [record.source for record in found(tmp_path / "set")] == ["ann/1.png", "bob/1.png"]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_a_name_that_is_no_text_is_rejected_and_can_be_printed(tmp_path: Path) -> None:
    put(tmp_path, "ann/1.png")
    try:
        Path(os.fsdecode(bytes(tmp_path / "ann") + b"/\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    rejects = [item for item in found(tmp_path) if isinstance(item, Reject)]
    assert [(reject.reason, reject.source) for reject in rejects] == [("name is not UTF-8", "ann/\\udcff.png")]


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; give a folder of pictures"):
        found(tmp_path / "nowhere")


def test_the_caption_is_the_first_line_beside_the_picture_or_the_template(
    pictures: Path, config_for: Callable[..., PrepareConfig]
) -> None:
    records = [item for item in found(pictures) if isinstance(item, Record)]
    config = config_for(caption_template="one {concept} of many")
    assert [caption_of(record, config) for record in records[:2]] == ["cat number 0 asleep", "one cat of many"]
    (pictures / "cat00" / "1.txt").write_text("\n  \n")
    assert caption_of(records[1], config) == "one cat of many"
