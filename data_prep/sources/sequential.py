"""Reads here and there in what only goes forward, cheap as long as they go forward too."""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import BinaryIO, Generic, TypeVar

CHUNK_BYTES = 2**20
WINDOW_BYTES = 32 * CHUNK_BYTES
"""Bytes behind the stream that are kept: threads that read ahead ask for neighbours in any order."""
WINDOW_ROWS = 64
"""The same for rows."""
MAX_OPEN = 2
"""Streams that a process has open: those at whose border its reads are."""

Item = TypeVar("Item")


class HandleCache(Generic[Item]):
    """The last few that were opened, by name. Any number of threads may ask; it is not pickled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items = OrderedDict[tuple[int, Hashable], Item]()

    def get(self, name: Hashable, open_fn: Callable[[], Item]) -> Item:
        """The item of that name, made if it is not there any more."""
        # By process, because a forked one shares its parent's position in a file.
        key = (os.getpid(), name)
        with self._lock:
            if key not in self._items:
                self._items[key] = open_fn()
            self._items.move_to_end(key)
            while len(self._items) > MAX_OPEN:
                self._items.popitem(last=False)  # whoever reads from it still holds it
            return self._items[key]


class SequentialReader:
    """A decompressed stream by offset. Reading before the window starts the stream again. Threads take turns."""

    def __init__(self, reopen: Callable[[], AbstractContextManager[BinaryIO]]) -> None:
        self._reopen, self._lock, self._exit_stack = reopen, threading.Lock(), ExitStack()
        self._file: BinaryIO | None = None
        self._buffer, self._buffer_start = bytearray(), 0

    def read(self, offset: int, size: int) -> bytes:
        """The bytes there; fewer where the stream ends. Raises what the decompressor raises."""
        with self._lock:
            if self._file is None or offset < self._buffer_start:
                self.close()
                self._file = self._exit_stack.enter_context(self._reopen())
            while self._buffer_start + len(self._buffer) < offset + size and self._read_chunk(self._file, offset):
                pass
            first = offset - self._buffer_start
            return bytes(self._buffer[first : first + size])

    def close(self) -> None:
        """Close the stream; a later read opens it again."""
        self._exit_stack.close()
        self._file, self._buffer, self._buffer_start = None, bytearray(), 0

    def _read_chunk(self, file: BinaryIO, keep_from: int) -> bool:
        """Decompress some more, and forget what lies further back than the window and before ``needed``."""
        try:
            # Not read(), which would go on into a damage beyond what is asked for.
            chunk = file.read1(CHUNK_BYTES)  # type: ignore[attr-defined]
        except BaseException:
            self.close()  # a stream that failed somewhere in the middle must not be read on from there
            raise
        self._buffer += chunk
        if len(self._buffer) > 2 * WINDOW_BYTES:
            num_discarded = min(len(self._buffer) - WINDOW_BYTES, keep_from - self._buffer_start)
            del self._buffer[:num_discarded]
            self._buffer_start += num_discarded
        return bool(chunk)


class SequentialRows(Generic[Item]):
    """Rows by number, of what can only be iterated. Asking for one before the last few starts again."""

    def __init__(self, rows: Iterable[Item]) -> None:
        self._rows, self._lock = rows, threading.Lock()
        self._iterator: Iterator[Item] = iter(())
        self._next_row, self._recent = -1, deque[Item](maxlen=WINDOW_ROWS)

    def read(self, row: int) -> Item:
        """The row. Raises OSError if there are fewer, and what iterating raises."""
        with self._lock:
            if self._next_row < 0 or row < self._next_row - len(self._recent):
                self._iterator = iter(self._rows)
                self._next_row, self._recent = 0, deque(maxlen=WINDOW_ROWS)
            try:
                while self._next_row <= row:
                    self._recent.append(next(self._iterator))
                    self._next_row += 1
            except BaseException as error:
                self._next_row = -1  # an iterator that failed must not be gone on with
                if isinstance(error, StopIteration):
                    raise OSError(f"there are fewer than {row + 1} rows") from error
                raise
            return self._recent[row - self._next_row]
