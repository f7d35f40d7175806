"""Folders and archives in stores that fsspec reads, whose reads fail, hang, or ignore byte ranges."""

import io
import tarfile
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_prep.config import PrepareConfig, ReadConfig
from data_prep.errors import DataError, SampleRejected
from data_prep.records import Record
from data_prep.sources import open_source

READ = ReadConfig(retries=2, backoff_seconds=0.001, timeout_seconds=5)
IMAGE = bytes(range(256)) * 8


class StoreError(Exception):
    """What a store raises: neither an OSError nor anything else in common with other stores."""

    def __init__(self, status: int) -> None:
        super().__init__(f"answer {status}")
        self.status = status


class FlakyFileSystem(MemoryFileSystem):
    """A store in memory whose next reads have the queued faults."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    faults: ClassVar[deque[str]] = deque()
    calls: ClassVar[list[str]] = []
    released = threading.Event()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.replace("flaky://", "memory://"))
        return stripped

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        self.calls.append(path)
        fault = self.faults.popleft() if self.faults else ""
        if fault.isdigit():
            raise StoreError(int(fault))
        if fault == "hang":
            self.released.wait()
        data: bytes = super().cat_file(path, None if fault == "whole" else start, None if fault == "whole" else end)
        return data[: len(data) // 2] if fault == "short" else data

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        if self.faults:
            raise StoreError(int(self.faults.popleft()))
        return super().ls(path, detail, **kwargs)


@pytest.fixture
def store() -> Iterator[type[FlakyFileSystem]]:
    """A folder of two images with captions, and a tar of one image, at ``flaky://``."""
    FlakyFileSystem.released.clear()
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    fs = fsspec.filesystem("flaky")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a/0.png")
        info.size = len(IMAGE)
        tar.addfile(info, io.BytesIO(IMAGE))
    fs.pipe({"/set/a/0.png": IMAGE, "/set/a/0.txt": b"a cat", "/set/b/1.png": IMAGE, "/set.tar": buffer.getvalue()})
    yield FlakyFileSystem
    FlakyFileSystem.released.set()
    FlakyFileSystem.faults.clear()
    FlakyFileSystem.calls.clear()
    FlakyFileSystem.store.clear()


def config(url: str, read: ReadConfig = READ) -> PrepareConfig:
    return PrepareConfig(source=url, output="unused", domain="cat", read=read)


def records(url: str) -> list[Record]:
    return [item for item in open_source(config(url)) if isinstance(item, Record)]


@pytest.mark.parametrize("url", ["flaky://set", "flaky://set.tar"])
@pytest.mark.parametrize("fault", ["503", "500", "short", "whole"])
def test_a_fault_that_passes_changes_nothing(url: str, fault: str, store: type[FlakyFileSystem]) -> None:
    listed = records(url)
    source = open_source(config(url))
    store.faults.extend([fault] * 2)
    assert source.read(listed[0]) == IMAGE


@pytest.mark.parametrize("url", ["flaky://set", "flaky://set.tar"])
@pytest.mark.parametrize(
    ("fault", "reason", "retryable", "attempts"),
    [("503", "http 503", True, 3), ("403", "http 403", True, 1), ("short", "incomplete answer", True, 3)],
)
def test_a_fault_that_stays_is_a_reject(
    url: str, fault: str, reason: str, retryable: bool, attempts: int, store: type[FlakyFileSystem]
) -> None:
    listed, source = records(url), open_source(config(url))
    store.calls.clear()
    store.faults.extend([fault] * 3)
    with pytest.raises(SampleRejected) as caught:
        source.read(listed[0])
    assert (caught.value.reason, caught.value.retryable, len(store.calls)) == (reason, retryable, attempts)


def test_a_store_that_hangs_is_given_up(store: type[FlakyFileSystem]) -> None:
    listed = records("flaky://set")
    source = open_source(config("flaky://set", ReadConfig(retries=0, timeout_seconds=0.1)))
    store.faults.append("hang")
    with pytest.raises(SampleRejected) as caught:
        source.read(listed[0])
    assert (caught.value.reason, caught.value.cause) == ("timeout", "no answer in 0.1 s")


def test_a_folder_that_cannot_be_listed_is_an_error_with_its_cause(store: type[FlakyFileSystem]) -> None:
    source = open_source(config("flaky://set"))
    store.faults.extend(["503"] * 3)
    with pytest.raises(DataError, match=r"flaky://set cannot be read \(HTTP 503 Service Unavailable; tried 3 times\)"):
        list(source)
