import pickle
from pathlib import Path

import pytest

from data_prep.storage.store import Store


@pytest.fixture(params=["a folder", "a URL"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "set") if request.param == "a folder" else f"memory://{tmp_path.name}/set")


def test_a_written_file_is_read_back(store: Store) -> None:
    store.write("train/a.json", "one")
    store.write("train/a.json", b"two")
    assert store.read("train/a.json") == b"two"
    assert store.size("train/a.json") == 3


def test_a_failed_write_creates_no_file(store: Store) -> None:
    with pytest.raises(RuntimeError), store.atomic_open("train/a.tar") as file:
        file.write(b"half")
        raise RuntimeError
    assert not store.exists("train/a.tar")


def test_a_failed_write_keeps_the_old_file(store: Store) -> None:
    store.write("a", "old")
    with pytest.raises(RuntimeError), store.atomic_open("a") as file:
        file.write(b"new")
        raise RuntimeError
    assert store.read("a") == b"old"


def test_a_file_can_be_read_back_before_it_appears(store: Store) -> None:
    with store.atomic_open("a") as file:
        file.write(b"hello")
        file.seek(1)
        assert file.read(3) == b"ell"


def test_a_moved_file_replaces_an_existing_one(store: Store) -> None:
    store.write("work/a", "new")
    store.write("train/a", "old")
    store.move("work/a", "train/a")
    assert (store.read("train/a"), store.exists("work/a")) == (b"new", False)


def test_a_folder_lists_its_files_sorted_by_name(store: Store) -> None:
    for name in ("train/b", "train/a", "val/c"):
        store.write(name, "")
    assert store.listdir("train") == ["train/a", "train/b"]
    assert store.listdir("test") == []


def test_deleting_a_missing_file_or_folder_is_no_error(store: Store) -> None:
    store.write("work/plan/a", "")
    store.delete("work/plan/a")
    store.delete("work/plan/a")
    store.delete_folder("work")
    store.delete_folder("work")
    assert store.size("work/plan/a") is None


def test_a_store_can_be_pickled(store: Store) -> None:
    store.write("a", "hello")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"hello"  # noqa: S301 - our own bytes
