"""A folder on this machine's disk."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_prep.sources.entries import MAX_FILE_BYTES, Entry, listing_errors


@dataclass(frozen=True)
class LocalTree:
    """On this machine's disk."""

    root: str

    @property
    def url(self) -> str:
        """The folder."""
        return self.root

    def entries(self, folder: str, wanted: Callable[[str], bool]) -> list[Entry]:
        """As in Tree; links are followed."""
        with listing_errors(self._path(folder)), os.scandir(self._path(folder)) as found:
            return sorted(
                (_local_entry(Path(entry.path)) for entry in found if _is_folder(entry) or wanted(entry.name)),
                key=lambda entry: entry.name,
            )

    def names(self) -> Iterator[str]:
        """As in Tree."""
        with listing_errors(self.root), os.scandir(self.root) as found:
            yield from (entry.name for entry in found)

    def entry(self, name: str) -> Entry:
        """As in Tree."""
        path = self._path(name)
        path.stat()
        return _local_entry(path)

    def real(self, folder: str) -> object:
        """Device and number on it."""
        with listing_errors(self._path(folder)):
            found = self._path(folder).stat()
            return found.st_dev, found.st_ino

    def glob(self, pattern: str) -> list[str]:
        """As in Tree."""
        root = Path(self.root)
        return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern) if path.is_file())

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0) -> bytes:
        """As in Tree."""
        with self.open(name) as file:
            size = min(size, os.fstat(file.fileno()).st_size - start)
            if size <= 0:
                return b""
            file.seek(start)
            return file.read(size)

    def open(self, name: str) -> BinaryIO:
        """As in Tree. A pipe or device is not opened, which could take for ever."""
        path = self._path(name)
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(f"{path} is not a file")
        return path.open("rb")

    def _path(self, name: str) -> Path:
        return Path(self.root, name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        if entry.is_symlink():  # to itself
            return False
        raise


def _local_entry(path: Path) -> Entry:
    try:
        found = path.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError) or path.is_symlink():
            return Entry(path.name, "other", 0, "")
        raise
    kind = {stat.S_IFDIR: "folder", stat.S_IFREG: "file"}.get(stat.S_IFMT(found.st_mode), "other")
    return Entry(path.name, kind, found.st_size, f"{found.st_size}-{found.st_mtime_ns}")  # type: ignore[arg-type]
