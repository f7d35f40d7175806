"""Files kept on a local disk, bounded in bytes, that any number of processes share."""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"


class FileCache:
    """Files by their sha256; those not used for longest go when room is needed.

    Everything is told by locks on the files themselves, which end with their process: a reader holds a shared one while
    it reads, so that nobody removes the file under it; whoever fetches holds an exclusive one on the partial file, so
    that others wait and then find the whole one. What a killed process left is used or removed by the next.
    """

    def __init__(self, folder: Path | str, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder).expanduser(), max_bytes

    def open(self, sha256: str, size: int, fetch: Callable[[BinaryIO], None]) -> BinaryIO:
        """The file, locked until it is closed; ``fetch`` writes it, or raises, if it is not there."""
        while True:
            file = self._open_cached(sha256, size)
            if file:
                return file
            self._fetch_locked(sha256, size, fetch)

    def evict_if_corrupt(self, sha256: str) -> bool:
        """Remove a file whose bytes are not what they were. Returns whether it was so."""
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
        """Where a file is kept. Raises OSError for a name that would lead elsewhere: it comes from somebody's set."""
        if not sha256.isalnum():
            raise OSError(f"{sha256!r} is no sha256")
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
        os.utime(file.fileno(), ns=(time.time_ns(),) * 2)  # the system's own stamps are milliseconds apart
        return file

    def _fetch_locked(self, sha256: str, size: int, fetch: Callable[[BinaryIO], None]) -> None:
        """Fetch a file, unless somebody else does meanwhile."""
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
        """Give the empty file its size, after removing what must go for it. Raises OSError if it can never have it."""
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
        """One at a time: two that look for room would both find the same, and a file that is renamed be overlooked."""
        with (self.folder / "lock").open("w") as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            yield

    def _evict(self, size: int) -> Path | None:
        """Remove files, those not used for longest first; returns one to wait for if all that are left are in use."""
        # Empty ones wait for room themselves: to wait for them could be for ever.
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
            with suppress(FileNotFoundError):  # others remove and rename, too
                yield path, path.stat()


def _same_inode(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is still the one of that name: while a lock is waited for it may be renamed or removed."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_unused(path: Path) -> bool:
    """Remove a file unless somebody reads or writes it. Returns whether it is gone."""
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
    """Return when the file is not in use any more, or gone."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
