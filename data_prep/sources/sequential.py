"""Reads here and there in what only goes forward, cheap as long as they go forward too."""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import BinaryIO, Generic, TypeVar

STEP = 2**20
WINDOW = 32 * STEP
"""Bytes behind the stream that are kept: threads that read ahead ask for neighbours in any order."""
ROWS_BEHIND = 64
"""The same for rows."""
KEPT = 2
"""Streams that a process has open: those at whose border its reads are."""

Item = TypeVar("Item")


class LastOpened(Generic[Item]):
    """The last few that were opened, by name. Any number of threads may ask; it is not pickled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items = OrderedDict[tuple[int, Hashable], Item]()

    def get(self, name: Hashable, make: Callable[[], Item]) -> Item:
        """The item of that name, made if it is not there any more."""
        # By process, because a forked one shares its parent's position in a file.
        at = (os.getpid(), name)
        with self._lock:
            if at not in self._items:
                self._items[at] = make()
            self._items.move_to_end(at)
            while len(self._items) > KEPT:
                self._items.popitem(last=False)  # whoever reads from it still holds it
            return self._items[at]


class ForwardReader:
    """A decompressed stream by offset. Reading before the window starts the stream again. Threads take turns."""

    def __init__(self, reopen: Callable[[], AbstractContextManager[BinaryIO]]) -> None:
        self._reopen, self._lock, self._open = reopen, threading.Lock(), ExitStack()
        self._file: BinaryIO | None = None
        self._buffer, self._start = bytearray(), 0

    def read(self, offset: int, size: int) -> bytes:
        """The bytes there; fewer where the stream ends. Raises what the decompressor raises."""
        with self._lock:
            if self._file is None or offset < self._start:
                self.close()
                self._file = self._open.enter_context(self._reopen())
            while self._start + len(self._buffer) < offset + size and self._advance(self._file, offset):
                pass
            first = offset - self._start
            return bytes(self._buffer[first : first + size])

    def close(self) -> None:
        """Close the stream; a later read opens it again."""
        self._open.close()
        self._file, self._buffer, self._start = None, bytearray(), 0

    def _advance(self, file: BinaryIO, needed: int) -> bool:
        """Decompress some more, and forget what lies further back than the window and before ``needed``."""
        try:
            # Not read(), which would go on into a damage beyond what is asked for.
            more = file.read1(STEP)  # type: ignore[attr-defined]
        except BaseException:
            self.close()  # a stream that failed somewhere in the middle must not be read on from there
            raise
        self._buffer += more
        if len(self._buffer) > 2 * WINDOW:
            surplus = min(len(self._buffer) - WINDOW, needed - self._start)
            del self._buffer[:surplus]
            self._start += surplus
        return bool(more)


class ForwardRows(Generic[Item]):
    """Rows by number, of what can only be iterated. Asking for one before the last few starts again."""

    def __init__(self, rows: Iterable[Item]) -> None:
        self._rows, self._lock = rows, threading.Lock()
        self._iterator: Iterator[Item] = iter(())
        self._next, self._last = -1, deque[Item](maxlen=ROWS_BEHIND)

    def read(self, row: int) -> Item:
        """The row. Raises OSError if there are fewer, and what iterating raises."""
        with self._lock:
            if self._next < 0 or row < self._next - len(self._last):
                self._iterator = iter(self._rows)
                self._next, self._last = 0, deque(maxlen=ROWS_BEHIND)
            try:
                while self._next <= row:
                    self._last.append(next(self._iterator))
                    self._next += 1
            except BaseException as error:
                self._next = -1  # an iterator that failed must not be gone on with
                if isinstance(error, StopIteration):
                    raise OSError(f"there are fewer than {row + 1} rows") from error
                raise
            return self._last[row - self._next]
