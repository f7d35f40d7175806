"""Read a tar once, from beginning to end: location and checksum of every member, and the SHA-256 of the file."""

import hashlib
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from data_prep.shards.checksum import checksum
from data_prep.shards.shard_index import Member

CHUNK_BYTES = 2**20


class TarScan:
    """Iterates over name, location and data of the members; it reads the file once, because it may be remote."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = _HashingReader(file)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, after the iteration."""
        return self._file.digest.hexdigest()

    @property
    def size(self) -> int:
        """Size of the file in bytes, after the iteration."""
        return self._file.size

    def __iter__(self) -> Iterator[tuple[str, Member, bytes]]:
        """Yield the members up to the first header that is damaged, then read the rest of the file."""
        try:
            with tarfile.open(fileobj=cast("BinaryIO", self._file), mode="r|", bufsize=CHUNK_BYTES) as tar:
                for info in tar:
                    file = tar.extractfile(info)
                    data = file.read() if file else b""
                    yield info.name, Member(info.offset_data, len(data), checksum(info.name, data)), data
        except tarfile.TarError:
            pass  # what follows has no name, so that members are missing
        while self._file.read(CHUNK_BYTES):
            pass


class _HashingReader:
    """A file whose digest is computed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size, self.digest = file, 0, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.size += len(data)
        self.digest.update(data)
        return data
