"""The large files of a set, read on this machine's disk: where they are, or after a whole copy has come."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_prep.storage.local_cache import FileCache
from data_prep.storage.retrying_store import PatientStore

CHUNK = 8 * 2**20
"""Bytes asked of a store at once: what a failed attempt costs, and what must come within the timeout."""
DELIVERIES = 2
"""How often a file is fetched whose sha256 differs on arrival."""


class StoredFile(NamedTuple):
    """A file of a set, as it was when it was made."""

    name: str
    """In the set's folder."""
    bytes: int
    """Its size."""
    sha256: str
    """Of its bytes."""


class Short(Exception):  # noqa: N818 - says what the file is
    """A file on this machine's disk ends too early; trying again cannot help."""


class SetFiles:
    """Reads of large files. Any number of threads and processes may read."""

    def __init__(self, store: PatientStore, cache: FileCache) -> None:
        self.store, self.cache = store, cache

    @contextmanager
    def opened(self, wanted: StoredFile) -> Iterator[BinaryIO]:
        """The file on this machine's disk. Raises FileNotFoundError or another OSError if it cannot be had."""
        if self.store.local:
            with Path(self.store.local_path(wanted.name)).open("rb") as there:
                yield there
        else:
            with self.cache.open(wanted.sha256, wanted.bytes, lambda file: self._fetch(wanted, file)) as file:
                yield file

    def read(self, wanted: StoredFile, offset: int, size: int) -> bytes:
        """So many bytes from an offset on. Raises as ``opened`` does, and Short."""

        def attempt() -> bytes:
            with self.opened(wanted) as file:
                return os.pread(file.fileno(), size, offset)

        # A store has been asked patiently already when the file is here.
        data = self.store.patiently(wanted.name, attempt) if self.store.local else attempt()
        if len(data) < size:
            raise Short(f"it ends at byte {offset + len(data)}, not {wanted.bytes}")
        return data

    def fetch_ahead(self, wanted: StoredFile) -> None:
        """Have the whole file ready: in the cache, or in memory as far as the system likes. Raises OSError."""
        with self.opened(wanted) as file:
            if self.store.local and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def discard_if_damaged(self, wanted: StoredFile) -> bool:
        """Drop a cached copy that was changed after it came. Returns whether it was so."""
        return not self.store.local and self.cache.discard_if_damaged(wanted.sha256)

    def _fetch(self, wanted: StoredFile, file: BinaryIO) -> None:
        """Write the file's bytes, checked. Raises OSError."""
        for _ in range(DELIVERIES):
            file.seek(0)
            digest = hashlib.sha256()
            for start in range(0, wanted.bytes, CHUNK):
                data = self.store.read_span(wanted.name, start, min(CHUNK, wanted.bytes - start))
                digest.update(data)
                file.write(data)
            if digest.hexdigest() == wanted.sha256:
                return
        raise OSError(f"its sha256 differs from the manifest's, {DELIVERIES} times")
