"""Read a folder on the local disk.

The local disk has a class of its own, because fsspec's ``LocalFileSystem`` lists links to folders and files as "other"
(linked folders would be skipped), has no device number to detect loops of links with, opens pipes (which blocks), and
takes as long to import as listing a small folder.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from data_prep.config import ReadConfig
from data_prep.errors import SourceChangedError
from data_prep.sources.files.failures import INCOMPLETE, NOT_A_FILE, ReadFailed, listing_errors, missing_is_change
from data_prep.sources.files.filesystem import MAX_FILE_BYTES, Entry, check_version, limit_size
from data_prep.sources.files.range_file import open_ranges
from data_prep.sources.files.retrying import with_retries


@dataclass(frozen=True)
class LocalTree:
    """A folder on the local disk; links are followed."""

    root: str
    config: ReadConfig = field(default_factory=ReadConfig)

    @property
    def url(self) -> str:
        """Path of the root folder."""
        return self.root

    def entries(self, folder: str, needs_stat: Callable[[str], bool]) -> list[Entry]:
        """List a folder; see FileTree."""
        path = self._path(folder)

        def scan() -> list[Entry]:
            with os.scandir(path) as scanned:
                return [
                    _local_entry(Path(entry.path))
                    if _is_folder(entry) or needs_stat(entry.name)
                    else Entry(entry.name, "file", 0, "")
                    for entry in scanned
                ]

        with listing_errors(path):
            return sorted(with_retries(self.config, path, scan), key=lambda entry: entry.name)

    def names(self) -> Iterator[str]:
        """Return the names in the root folder; see FileTree."""
        with listing_errors(self.root):
            return iter(with_retries(self.config, self.root, lambda: os.listdir(self.root)))  # noqa: PTH208

    def entry(self, name: str) -> Entry:
        """Look up one file or folder; see FileTree."""
        path = self._path(name)

        def look_up() -> Entry:
            path.stat()
            return _local_entry(path)

        return with_retries(self.config, path, look_up)

    def inode_key(self, folder: str) -> object:
        """Return the device and inode numbers of a folder; see FileTree."""
        path = self._path(folder)
        with listing_errors(path):
            info = with_retries(self.config, path, path.stat)
            return info.st_dev, info.st_ino

    def glob(self, pattern: str) -> list[str]:
        """List the files that match a pattern; see FileTree."""
        root = Path(self.root)

        def find() -> list[str]:
            return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern) if not path.is_dir())

        with listing_errors(root / pattern):
            return with_retries(self.config, root, find)

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0, *, version: str = "") -> bytes:
        """Read part of a file; see FileTree."""
        path = self._path(name)

        def attempt() -> bytes:
            with _open_regular(path, version) as file:
                wanted = min(size, os.fstat(file.fileno()).st_size - start)
                if wanted <= 0:
                    return b""
                file.seek(start)
                data = file.read(wanted)
            if len(data) < wanted:  # the file was cut in between
                raise ReadFailed(INCOMPLETE, f"{len(data)} of {wanted} bytes")
            return data

        with missing_is_change(path, version):
            return with_retries(self.config, path, attempt)

    def read_image(self, name: str, version: str = "") -> bytes:
        """Read an image file; see FileTree."""
        return limit_size(self.read(name, version=version))

    def open(self, name: str, version: str = "") -> BinaryIO:
        """Open a regular file; see FileTree."""
        path = self._path(name)
        with missing_is_change(path, version):
            file = with_retries(self.config, path, lambda: _open_regular(path, version))

        def read_at(offset: int, size: int) -> bytes:
            try:
                return os.pread(file.fileno(), size, offset)
            except OSError:
                return with_retries(self.config, path, lambda: os.pread(file.fileno(), size, offset))

        return open_ranges(read_at, os.fstat(file.fileno()).st_size, close=file.close)

    def _path(self, name: str) -> Path:
        return Path(self.root, name)


def _open_regular(path: Path, version: str) -> BinaryIO:
    """Open a file of the planned version. Pipes and devices are refused, because opening them may block."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ReadFailed(NOT_A_FILE, f"{path} is not a file", retryable=False)
    file = path.open("rb")
    try:
        check_version(path, version, _version(os.fstat(file.fileno())))
    except SourceChangedError:
        file.close()
        raise
    return file


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        if entry.is_symlink():  # a link that leads to itself
            return False
        raise


def _local_entry(path: Path) -> Entry:
    try:
        info = path.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError) or path.is_symlink():
            return Entry(path.name, "other", 0, "")
        raise
    kind = {stat.S_IFDIR: "folder", stat.S_IFREG: "file"}.get(stat.S_IFMT(info.st_mode), "other")
    return Entry(path.name, kind, info.st_size, _version(info))  # type: ignore[arg-type]


def _version(info: os.stat_result) -> str:
    return f"{info.st_size}-{info.st_mtime_ns}"
