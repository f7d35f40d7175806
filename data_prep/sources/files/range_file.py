"""A read-only file that consists of reads by byte range."""

import errno
import io
from collections.abc import Callable
from typing import BinaryIO, cast

ReadRange = Callable[[int, int], bytes]
"""Takes offset and size; returns at least one byte, unless the offset is the end of the file."""
BUFFER_BYTES = 64 * 2**10
MIN_AHEAD_BYTES, MAX_AHEAD_BYTES = 2**20, 8 * 2**20
"""Bytes of one request to a remote store."""


def open_ranges(read_at: ReadRange, size: int, close: Callable[[], None] = lambda: None) -> BinaryIO:
    """Return a buffered file of ``size`` bytes; its errors are those of ``read_at``."""
    raw = _RangeFile(read_at, size, close)
    return cast("BinaryIO", io.BufferedReader(raw, BUFFER_BYTES))


class _RangeFile(io.RawIOBase):
    def __init__(self, read_at: ReadRange, size: int, close: Callable[[], None]) -> None:
        self._read_at, self._size, self._close, self._position = read_at, size, close, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._size - self._position)
        data = self._read_at(self._position, wanted) if wanted > 0 else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise OSError(errno.EINVAL, f"seek to offset {position}")  # as files do; zipfile relies on it
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            self._close()
        super().close()


class ReadAhead:
    """Read a remote file in blocks that grow while it is read almost in order, and shrink when it is not."""

    def __init__(self, read_at: ReadRange, size: int) -> None:
        self._read_at, self._size = read_at, size
        self._start, self._block, self._ahead = 0, b"", MIN_AHEAD_BYTES

    def __call__(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from the offset, which must be before the end of the file."""
        end = self._start + len(self._block)
        if not self._start <= offset < end:
            is_near = 0 <= offset - end <= self._ahead
            self._ahead = min(2 * self._ahead, MAX_AHEAD_BYTES) if is_near else MIN_AHEAD_BYTES
            wanted = min(max(size, self._ahead), self._size - offset)
            self._start, self._block = offset, self._read_at(offset, wanted)
        first = offset - self._start
        return self._block[first : first + size]
