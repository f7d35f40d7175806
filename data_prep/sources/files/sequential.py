"""Random access to streams that can only be read forwards; cheap while the offsets mostly increase."""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import BinaryIO, Generic, TypeVar

CHUNK_BYTES = 2**20
WINDOW_BYTES = 32 * CHUNK_BYTES
"""Bytes kept behind the current position, because threads that read ahead request neighbors in any order."""
WINDOW_ROWS = 64
"""Rows kept behind the current row."""
MAX_OPEN = 2
"""Open handles per process: a worker's range of samples spans at most two archives at a time."""

Item = TypeVar("Item")


class HandleCache(Generic[Item]):
    """Keep the most recently used handles open (LRU, at most ``MAX_OPEN``). Thread-safe; must not be pickled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items = OrderedDict[tuple[int, Hashable], Item]()

    def get(self, name: Hashable, open_fn: Callable[[], Item]) -> Item:
        """Return the handle of that name; open it if it is not in the cache."""
        # Per process, because a forked process shares the file position with its parent.
        key = (os.getpid(), name)
        with self._lock:
            if key not in self._items:
                self._items[key] = open_fn()
            self._items.move_to_end(key)
            while len(self._items) > MAX_OPEN:
                self._items.popitem(last=False)  # a thread that still reads from it holds a reference
            return self._items[key]


class SequentialReader:
    """Read a decompressed stream at any offset; an offset before the window restarts the stream. Thread-safe."""

    def __init__(self, reopen: Callable[[], AbstractContextManager[BinaryIO]]) -> None:
        self._reopen, self._lock, self._exit_stack = reopen, threading.Lock(), ExitStack()
        self._file: BinaryIO | None = None
        self._buffer, self._buffer_start = bytearray(), 0

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes, or fewer at the end of the stream. Raises whatever the decompressor raises."""
        with self._lock:
            if self._file is None or offset < self._buffer_start:
                self.close()
                self._file = self._exit_stack.enter_context(self._reopen())
            while self._buffer_start + len(self._buffer) < offset + size and self._read_chunk(self._file, offset):
                pass
            first = offset - self._buffer_start
            return bytes(self._buffer[first : first + size])

    def close(self) -> None:
        """Close the stream; the next read reopens it."""
        self._exit_stack.close()
        self._file, self._buffer, self._buffer_start = None, bytearray(), 0

    def _read_chunk(self, file: BinaryIO, keep_from: int) -> bool:
        """Decompress one chunk and discard bytes that lie behind the window and before ``keep_from``.

        Returns False at the end of the stream.
        """
        try:
            # Not read(), which would run into corrupt data beyond the requested range.
            chunk = file.read1(CHUNK_BYTES)  # type: ignore[attr-defined]
        except BaseException:
            self.close()  # the position after a failure is undefined
            raise
        self._buffer += chunk
        if len(self._buffer) > 2 * WINDOW_BYTES:
            num_discarded = min(len(self._buffer) - WINDOW_BYTES, keep_from - self._buffer_start)
            del self._buffer[:num_discarded]
            self._buffer_start += num_discarded
        return bool(chunk)


class SequentialRows(Generic[Item]):
    """Read rows of an iterable by number; a row before the last ``WINDOW_ROWS`` restarts the iteration. Thread-safe."""

    def __init__(self, rows: Iterable[Item]) -> None:
        self._rows, self._lock = rows, threading.Lock()
        self._iterator: Iterator[Item] = iter(())
        self._next_row, self._recent = -1, deque[Item](maxlen=WINDOW_ROWS)

    def read(self, row: int) -> Item:
        """Return the row. Raises IndexError if there are fewer rows, and whatever the iterable raises."""
        with self._lock:
            if self._next_row < 0 or row < self._next_row - len(self._recent):
                self._iterator = iter(self._rows)
                self._next_row, self._recent = 0, deque(maxlen=WINDOW_ROWS)
            try:
                while self._next_row <= row:
                    self._recent.append(next(self._iterator))
                    self._next_row += 1
            except BaseException as error:
                self._next_row = -1  # do not continue with an iterator that failed
                if isinstance(error, StopIteration):
                    raise IndexError(f"there are fewer than {row + 1} rows") from error
                raise
            return self._recent[row - self._next_row]
