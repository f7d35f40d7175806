from pathlib import Path

import pytest

from data_prep.storage.atomic import atomic_dir, atomic_open, atomic_write, sha256_file


def test_a_written_file_replaces_an_earlier_one_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a.json", "before")
    atomic_write(tmp_path / "a.json", b"after")
    assert (tmp_path / "a.json").read_bytes() == b"after"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_keeps_the_earlier_file(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a.tar", "whole")
    with pytest.raises(KeyboardInterrupt), atomic_open(tmp_path / "a.tar") as file:
        file.write(b"ha")
        raise KeyboardInterrupt
    assert (tmp_path / "a.tar").read_text() == "whole"


def test_sha256_file_hashes_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_written_folder_replaces_an_earlier_one_and_leaves_no_temporary_folder(tmp_path: Path) -> None:
    for name in ("before", "after"):
        with atomic_dir(tmp_path / "folder") as folder:
            (folder / name).touch()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["after"]


def test_a_failed_write_keeps_the_earlier_folder(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "folder") as folder:
        (folder / "before").touch()
    with pytest.raises(KeyboardInterrupt), atomic_dir(tmp_path / "folder") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["before"]
