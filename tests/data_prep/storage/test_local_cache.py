import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from data_prep.storage.local_cache import FileCache

SIZE = 1000


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


def digest(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


class Fetches:
    """Writes files and records which ones."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def of(self, number: int) -> Callable[[BinaryIO], None]:
        def fetch(file: BinaryIO) -> None:
            self.done.append(number)
            file.write(content(number))

        return fetch


@pytest.fixture
def fetches() -> Fetches:
    return Fetches()


def read(cache: FileCache, fetches: Fetches, number: int) -> bytes:
    with cache.open(digest(number), SIZE, fetches.of(number)) as file:
        return file.read()


def test_a_file_is_fetched_once(tmp_path: Path, fetches: Fetches) -> None:
    cache = FileCache(tmp_path, 10 * SIZE)
    assert [read(cache, fetches, 1) for _ in range(3)] == [content(1)] * 3
    assert fetches.done == [1]


def test_the_least_recently_used_file_is_evicted_first(tmp_path: Path, fetches: Fetches) -> None:
    cache = FileCache(tmp_path, 2 * SIZE)
    for number in (1, 2, 1, 3):
        read(cache, fetches, number)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", digest(1), digest(3)}


def test_a_file_is_not_evicted_while_it_is_read(tmp_path: Path, fetches: Fetches) -> None:
    cache = FileCache(tmp_path, 2 * SIZE)
    with cache.open(digest(1), SIZE, fetches.of(1)) as held:
        for number in (2, 3, 4):
            read(cache, fetches, number)
        assert (tmp_path / digest(1)).exists()
        assert held.read() == content(1)


def test_a_fetch_waits_while_all_space_is_in_use(tmp_path: Path, fetches: Fetches) -> None:
    cache = FileCache(tmp_path, SIZE)
    held = cache.open(digest(1), SIZE, fetches.of(1))
    waiting = threading.Thread(target=read, args=(cache, fetches, 2))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    assert fetches.done == [1]
    held.close()
    waiting.join(10)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", digest(2)}


def test_a_failed_fetch_leaves_no_file(tmp_path: Path, fetches: Fetches) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("no more")

    cache = FileCache(tmp_path, 2 * SIZE)
    with pytest.raises(OSError, match="no more"):
        cache.open(digest(1), SIZE, fail)
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}
    assert read(cache, fetches, 1) == content(1)


def test_a_truncated_file_is_fetched_again(tmp_path: Path, fetches: Fetches) -> None:
    cache = FileCache(tmp_path, 2 * SIZE)
    read(cache, fetches, 1)
    os.truncate(tmp_path / digest(1), 10)
    assert read(cache, fetches, 1) == content(1)


def test_a_file_larger_than_the_cache_is_refused(tmp_path: Path, fetches: Fetches) -> None:
    with pytest.raises(OSError, match=r"its 1000 bytes are more than stream\.cache_max_bytes, 999"):
        read(FileCache(tmp_path, SIZE - 1), fetches, 1)


WORKER = """
import hashlib, random, sys, time
from data_prep.storage.local_cache import FileCache
cache = FileCache(sys.argv[1], 3000)
order = random.Random(int(sys.argv[2]))
for _ in range(150):
    data = bytes([order.randrange(8)]) * 1000
    def fetch(file):
        file.write(data[:500]); file.flush(); time.sleep(0.001); file.write(data[500:])
    with cache.open(hashlib.sha256(data).hexdigest(), 1000, fetch) as file:
        assert file.read() == data
"""


def test_processes_that_share_a_cache_read_complete_files_and_respect_the_limit(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, tmp_path, str(seed)], cwd=root)  # noqa: S603 - our own program
        for seed in range(4)
    ]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3000


def test_the_partial_file_of_a_killed_process_is_reused(tmp_path: Path, fetches: Fetches) -> None:
    killed = (
        "import os; from data_prep.storage.local_cache import FileCache\n"
        f"FileCache({str(tmp_path)!r}, 9000).open({digest(1)!r}, 1000, lambda file: os.kill(os.getpid(), 9))"
    )
    subprocess.run([sys.executable, "-c", killed], cwd=Path(__file__).parents[3], check=False)  # noqa: S603
    assert [path.name for path in tmp_path.glob("*.partial")] == [f"{digest(1)}.partial"]
    assert read(FileCache(tmp_path, 9000), fetches, 1) == content(1)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", digest(1)}


def test_files_of_others_in_the_folder_are_neither_removed_nor_counted(tmp_path: Path, fetches: Fetches) -> None:
    others = ["thesis.txt", "deadbeef", "photo.partial", f"{digest(1)}.bak", "lock"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine" * SIZE)
    cache = FileCache(tmp_path, SIZE)
    for number in (1, 2, 3):
        assert read(cache, fetches, number) == content(number)
    assert {path.name for path in tmp_path.iterdir()} == {*others, digest(3)}
    assert all((tmp_path / name).read_bytes() == b"mine" * SIZE for name in others)
