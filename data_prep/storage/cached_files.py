"""Read the large files of a dataset from the local disk: in place, or from a cached copy of a remote file."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_prep.storage.local_cache import FileCache
from data_prep.storage.retrying_store import RetryingStore

CHUNK_BYTES = 8 * 2**20
"""Bytes per request to a remote store; each request has its own timeout and retries."""
FETCH_ATTEMPTS = 2
"""Number of times a file is fetched before a wrong sha256 is an error."""


class StoredFile(NamedTuple):
    """A file of a dataset as its manifest lists it."""

    name: str
    """Path relative to the dataset."""
    bytes: int
    """Size in bytes."""
    sha256: str
    """Sha256 as hex digits."""


class TruncatedFile(Exception):  # noqa: N818 - describes the file
    """A local file is shorter than its manifest says; retrying cannot help."""


class CachedFiles:
    """Read large files through the cache. Safe for any number of threads and processes."""

    def __init__(self, store: RetryingStore, cache: FileCache) -> None:
        self.store, self.cache = store, cache

    @contextmanager
    def open(self, stored_file: StoredFile) -> Iterator[BinaryIO]:
        """Open the file on the local disk. Raises FileNotFoundError or another OSError if that fails."""
        if self.store.is_local:
            with Path(self.store.local_path(stored_file.name)).open("rb") as local_file:
                yield local_file
        else:
            with self.cache.open(
                stored_file.sha256, stored_file.bytes, lambda file: self._fetch(stored_file, file)
            ) as file:
                yield file

    def read(self, stored_file: StoredFile, offset: int, size: int) -> bytes:
        """Read ``size`` bytes from an offset. Raises as ``open`` does, and TruncatedFile."""

        def attempt() -> bytes:
            with self.open(stored_file) as file:
                return os.pread(file.fileno(), size, offset)

        # Fetching from a remote store has retries of its own; the cached copy is local.
        data = self.store.with_retries(stored_file.name, attempt) if self.store.is_local else attempt()
        if len(data) < size:
            raise TruncatedFile(f"it ends at byte {offset + len(data)}, not {stored_file.bytes}")
        return data

    def prefetch(self, stored_file: StoredFile) -> None:
        """Fetch the file into the cache, or ask the system to read a local file ahead. Raises OSError."""
        with self.open(stored_file) as file:
            if self.store.is_local and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def evict_if_corrupt(self, stored_file: StoredFile) -> bool:
        """Remove the cached copy if its sha256 is wrong. Returns whether it was removed."""
        return not self.store.is_local and self.cache.evict_if_corrupt(stored_file.sha256)

    def _fetch(self, stored_file: StoredFile, file: BinaryIO) -> None:
        """Copy the remote file into ``file`` and check its sha256. Raises OSError."""
        for _ in range(FETCH_ATTEMPTS):
            file.seek(0)
            digest = hashlib.sha256()
            for start in range(0, stored_file.bytes, CHUNK_BYTES):
                data = self.store.read_range(stored_file.name, start, min(CHUNK_BYTES, stored_file.bytes - start))
                digest.update(data)
                file.write(data)
            if digest.hexdigest() == stored_file.sha256:
                return
        raise OSError(f"its sha256 differs from the manifest's, {FETCH_ATTEMPTS} times")
