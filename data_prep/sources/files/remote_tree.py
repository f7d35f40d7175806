"""Read a folder at an fsspec URL: a thin layer over fsspec's ``DirFileSystem`` with retries and time limits."""

import io
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO

import fsspec.core
from fsspec.implementations.dirfs import DirFileSystem

from data_prep.config import ReadConfig
from data_prep.credentials import redact
from data_prep.errors import DataError
from data_prep.sources.files.failures import BAD_URL, INCOMPLETE, ReadFailed, listing_errors, missing_is_change
from data_prep.sources.files.filesystem import MAX_FILE_BYTES, Entry, limit_size
from data_prep.sources.files.range_file import ReadAhead, open_ranges
from data_prep.sources.files.retrying import with_retries
from data_prep.sources.files.versions import check_same, make_version, size_of
from data_prep.storage.retries import Result, call_with_timeout

VERSION_FIELDS = ("etag", "ETag", "md5Hash", "mtime", "last_modified", "LastModified", "created")
"""Fields of fsspec's file information that change with the content, the most reliable first."""
CHECK_SECONDS = 10.0
"""Time for which a file counts as unchanged after its version was compared: members of an archive share one look-up."""


@dataclass(frozen=True)
class RemoteTree:
    """A folder at a URL."""

    url: str
    fs: Any
    """``DirFileSystem`` of the folder."""
    config: ReadConfig
    checked: "_CheckedVersions" = field(default_factory=lambda: _CheckedVersions(), compare=False, repr=False)

    @classmethod
    def from_url(cls, url: str, config: ReadConfig) -> "RemoteTree":
        """Open the store. Raises ReadFailed if that fails, and DataError if its package is not installed."""
        seconds = config.timeout_seconds
        fs, root = with_retries(config, redact(url), lambda: call_with_timeout(seconds, lambda: _open_store(url)))
        return cls(url.rstrip("/"), DirFileSystem(path=root or "/", fs=fs), config)

    def entries(self, folder: str, needs_stat: Callable[[str], bool]) -> list[Entry]:
        """List a folder; see FileTree."""
        with listing_errors(f"{self.url}/{folder}".rstrip("/")):
            infos = self._call(folder, lambda: self.fs.ls(folder, detail=True, refresh=True))
        # Object stores list a marker for the folder itself.
        listed = [_remote_entry(info) for info in infos if str(info["name"]).strip("/") != folder.strip("/")]
        return sorted(listed, key=lambda entry: entry.name)

    def names(self) -> Iterator[str]:
        """Yield the names in the root folder; see FileTree."""
        return (entry.name for entry in self.entries("", lambda _: True))

    def entry(self, name: str) -> Entry:
        """Look up one file or folder; see FileTree."""
        return _remote_entry(self._call(name, lambda: self.fs.info(name)))

    def inode_key(self, folder: str) -> object:
        """Return the path: remote stores have no links; see FileTree."""
        return folder

    def glob(self, pattern: str) -> list[str]:
        """List the files that match a pattern; see FileTree."""
        with listing_errors(self._label(pattern)):
            return sorted(str(path).lstrip("/") for path in self._call(pattern, lambda: self.fs.glob(pattern)))

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0, *, version: str = "") -> bytes:
        """Read part of a file; see FileTree."""
        if size <= 0:
            return b""
        with missing_is_change(self._label(name), version):
            if version and not self.checked.is_fresh(name, version):
                info = self._call(name, lambda: self.fs.info(name))
                check_same(self._label(name), version, info.get("size"), _version_tags(info))
                self.checked.add(name, version)
            total = size_of(version)
            return self._call(
                name, lambda: _take_range(self.fs.cat_file(name, start=start, end=start + size), start, size, total)
            )

    def read_image(self, name: str, version: str = "") -> bytes:
        """Read an image file; see FileTree."""
        return limit_size(self.read(name, version=version))

    def open(self, name: str, version: str = "") -> BinaryIO:
        """Open a file; see FileTree."""
        with missing_is_change(self._label(name), version):
            found = self.entry(name)
        version, size = version or found.version, size_of(found.version)
        if size is None:
            return io.BytesIO(self.read_image(name, version))
        return open_ranges(ReadAhead(lambda start, size: self.read(name, size, start, version=version), size), size)

    def _call(self, name: str, call: Callable[[], Result]) -> Result:
        seconds = self.config.timeout_seconds
        return with_retries(self.config, redact(self._label(name)), lambda: call_with_timeout(seconds, call))

    def _label(self, name: str) -> str:
        return f"{self.url}/{name}"


def read_image_at(url: str, config: ReadConfig) -> bytes:
    """Read an image file at any fsspec URL. Raises as ``RemoteTree.read_image`` does."""

    def attempt() -> bytes:
        fs, path = _open_store(url)
        # One byte more than allowed, so that limit_size notices larger files.
        return bytes(fs.cat_file(path, start=0, end=MAX_FILE_BYTES + 1))

    return limit_size(with_retries(config, redact(url), lambda: call_with_timeout(config.timeout_seconds, attempt)))


def _open_store(url: str) -> tuple[Any, str]:
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DataError(f"source {redact(url)} cannot be opened ({error}); install the package") from error
    except ValueError as error:
        raise ReadFailed(BAD_URL, str(error), retryable=False) from error
    return fs, str(root)


def _take_range(data: Any, start: int, size: int, total: int | None) -> bytes:  # noqa: ANN401 - fsspec has no types
    """Return the bytes that were asked for; some stores ignore the range and send the whole file.

    Raises ReadFailed if they are not all there; ``total`` is the size of the file, or None if it is unknown.
    """
    expected = size if total is None else max(0, min(size, total - start))
    if len(data) > expected:
        data = data[start : start + expected]
    if total is not None and len(data) < expected:
        raise ReadFailed(INCOMPLETE, f"{len(data)} of {expected} bytes")
    return bytes(data)


def _remote_entry(info: dict[str, Any]) -> Entry:
    kind = {"directory": "folder", "file": "file"}.get(info["type"], "other")
    size = info.get("size")
    name = str(info["name"]).rstrip("/").rpartition("/")[2]
    return Entry(name, kind, size or 0, make_version(size, _version_tags(info)))  # type: ignore[arg-type]


def _version_tags(info: Mapping[str, Any]) -> dict[str, str]:
    """Return what tells the version of a file, the most reliable first; stores give times in several types."""
    tags = dict[str, str]()
    for key in VERSION_FIELDS:
        value = info.get(key)
        if isinstance(value, datetime):
            value = value.timestamp()
        if value:
            tags.setdefault(key.lower().replace("_", ""), f"{value:.3f}" if isinstance(value, float) else str(value))
    return tags


class _CheckedVersions:
    """Files whose versions were compared a moment ago, of one process. Thread-safe."""

    MAX_NAMES = 64

    def __init__(self) -> None:
        self._lock, self._times = threading.Lock(), OrderedDict[tuple[int, str, str], float]()

    def __reduce__(self) -> tuple[type["_CheckedVersions"], tuple[()]]:
        return type(self), ()

    def is_fresh(self, name: str, version: str) -> bool:
        """Return whether the file had this version within the last ``CHECK_SECONDS``."""
        with self._lock:
            return time.monotonic() - self._times.get((os.getpid(), name, version), -CHECK_SECONDS) < CHECK_SECONDS

    def add(self, name: str, version: str) -> None:
        """Record that the file has this version now."""
        with self._lock:
            self._times[os.getpid(), name, version] = time.monotonic()
            if len(self._times) > self.MAX_NAMES:
                self._times.popitem(last=False)
