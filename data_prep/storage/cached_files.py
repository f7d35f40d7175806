"""The large files of a set, read on this machine's disk: where they are, or after a whole copy has come."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_prep.storage.local_cache import FileCache
from data_prep.storage.retrying_store import RetryingStore

CHUNK_BYTES = 8 * 2**20
"""Bytes asked of a store at once: what a failed attempt costs, and what must come within the timeout."""
FETCH_ATTEMPTS = 2
"""How often a file is fetched whose sha256 differs on arrival."""


class StoredFile(NamedTuple):
    """A file of a set, as it was when it was made."""

    name: str
    """In the set's folder."""
    bytes: int
    """Its size."""
    sha256: str
    """Of its bytes."""


class TruncatedFile(Exception):  # noqa: N818 - says what the file is
    """A file on this machine's disk ends too early; trying again cannot help."""


class CachedFiles:
    """Reads of large files. Any number of threads and processes may read."""

    def __init__(self, store: RetryingStore, cache: FileCache) -> None:
        self.store, self.cache = store, cache

    @contextmanager
    def open(self, stored_file: StoredFile) -> Iterator[BinaryIO]:
        """The file on this machine's disk. Raises FileNotFoundError or another OSError if it cannot be had."""
        if self.store.is_local:
            with Path(self.store.local_path(stored_file.name)).open("rb") as local_file:
                yield local_file
        else:
            with self.cache.open(
                stored_file.sha256, stored_file.bytes, lambda file: self._fetch(stored_file, file)
            ) as file:
                yield file

    def read(self, stored_file: StoredFile, offset: int, size: int) -> bytes:
        """So many bytes from an offset on. Raises as ``opened`` does, and Short."""

        def attempt() -> bytes:
            with self.open(stored_file) as file:
                return os.pread(file.fileno(), size, offset)

        # A store has been asked patiently already when the file is here.
        data = self.store.with_retries(stored_file.name, attempt) if self.store.is_local else attempt()
        if len(data) < size:
            raise TruncatedFile(f"it ends at byte {offset + len(data)}, not {stored_file.bytes}")
        return data

    def prefetch(self, stored_file: StoredFile) -> None:
        """Have the whole file ready: in the cache, or in memory as far as the system likes. Raises OSError."""
        with self.open(stored_file) as file:
            if self.store.is_local and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def evict_if_corrupt(self, stored_file: StoredFile) -> bool:
        """Drop a cached copy that was changed after it came. Returns whether it was so."""
        return not self.store.is_local and self.cache.evict_if_corrupt(stored_file.sha256)

    def _fetch(self, stored_file: StoredFile, file: BinaryIO) -> None:
        """Write the file's bytes, checked. Raises OSError."""
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
