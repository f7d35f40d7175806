"""A cache of files on the local disk, bounded in bytes and shared by any number of processes."""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from data_prep.config_dict import SHA256_PATTERN

PARTIAL = ".partial"
"""Suffix of files that are being fetched."""
_CACHED_NAME = re.compile(rf"{SHA256_PATTERN}({re.escape(PARTIAL)})?")
"""Names of the cache's files. Files of other names in the folder are not the cache's and are never removed."""


class FileCache:
    """Cache files by their sha256; the least recently used ones are evicted when space is needed.

    Processes coordinate through ``flock`` on the files, which the system releases when a process dies. A reader holds a
    shared lock, so that the file is not evicted while it is read. A fetcher holds an exclusive lock on the partial
    file, so that others wait and then use the complete one. Files of a killed process are reused or removed later.
    """

    def __init__(self, folder: Path | str, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder).expanduser(), max_bytes

    def open(self, sha256: str, size: int, fetch: Callable[[BinaryIO], None]) -> BinaryIO:
        """Open a file, locked until it is closed. ``fetch`` writes it if it is not in the cache, or raises."""
        while True:
            file = self._open_cached(sha256, size)
            if file:
                return file
            self._fetch_locked(sha256, size, fetch)

    def evict_if_corrupt(self, sha256: str) -> bool:
        """Remove a file if its sha256 is wrong. Returns whether it was removed."""
        path = self._path(sha256)
        try:
            with path.open("rb") as file:
                corrupt = hashlib.file_digest(file, "sha256").hexdigest() != sha256
        except FileNotFoundError:
            return False
        if corrupt:
            path.unlink(missing_ok=True)
        return corrupt

    def _path(self, sha256: str) -> Path:
        """Return the path of a file. Raises OSError for an unsafe name, because names come from foreign manifests."""
        if not _CACHED_NAME.fullmatch(sha256):
            raise OSError(f"{sha256!r} is not a sha256")
        return self.folder / sha256

    def _open_cached(self, sha256: str, size: int) -> BinaryIO | None:
        path = self._path(sha256)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        if not _same_inode(file, path):
            file.close()
            return None
        if os.fstat(file.fileno()).st_size != size:
            path.unlink(missing_ok=True)
            file.close()
            return None
        os.utime(file.fileno(), ns=(time.time_ns(),) * 2)  # more precise than the system's own timestamps
        return file

    def _fetch_locked(self, sha256: str, size: int, fetch: Callable[[BinaryIO], None]) -> None:
        """Fetch a file, unless another process does so first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self._path(sha256)
        partial = target.with_name(sha256 + PARTIAL)
        with partial.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _same_inode(file, partial):
                return
            if target.exists():
                partial.unlink()
                return
            try:
                self._reserve(file, size)
                with partial.open("r+b") as content:
                    fetch(content)
                    content.flush()
                    os.fsync(content.fileno())
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            with self._lock():
                partial.rename(target)

    def _reserve(self, file: BinaryIO, size: int) -> None:
        """Evict files until ``size`` bytes are free and allocate them. Raises OSError if the file can never fit."""
        if size > self.max_bytes:
            raise OSError(f"its {size} bytes are more than stream.cache_max_bytes, {self.max_bytes}")
        file.truncate(0)
        while True:
            with self._lock():
                in_use = self._evict(size)
                if in_use is None:
                    file.truncate(size)
                    return
            _wait_until_unused(in_use)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Serialize eviction and renames: two processes must not count the same free space or miss a renamed file."""
        with (self.folder / "lock").open("a") as lock_file:  # not "w": the name may be that of somebody's file
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            yield

    def _evict(self, size: int) -> Path | None:
        """Evict the least recently used files. Returns a file to wait for if the rest is in use, else None."""
        # Empty files belong to processes that wait for space: waiting for them could deadlock.
        cached = [(path, stat) for path, stat in self._files() if stat.st_size]
        over = sum(stat.st_size for _, stat in cached) + size - self.max_bytes
        in_use = None
        for path, stat in sorted(cached, key=lambda item: item[1].st_mtime_ns):
            if over <= 0:
                return None
            if _remove_unused(path):
                over -= stat.st_size
            else:
                in_use = in_use or path
        return in_use if over > 0 else None

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.iterdir():
            if not _CACHED_NAME.fullmatch(path.name):
                continue
            with suppress(FileNotFoundError):  # other processes remove and rename files
                yield path, path.stat()


def _same_inode(file: BinaryIO, path: Path) -> bool:
    """Return whether ``path`` is still the open file; it may be renamed or removed while a lock is awaited."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_unused(path: Path) -> bool:
    """Remove a file unless a process reads or writes it. Returns whether it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_inode(file, path):
                path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def _wait_until_unused(path: Path) -> None:
    """Block until the file is no longer in use or has been removed."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
