"""Whose turn it is: one computes at a time, first come, first served, and only so many wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from pipelines.errors import RunError


class Turns:
    """A line of bounded length; its head has the turn."""

    def __init__(self, waiting: int) -> None:
        """``waiting`` may stand behind the one whose turn it is."""
        self._most, self._line, self._moved = waiting + 1, list[Place](), Condition()

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """A place in the line, given back however the block ends. Raises RunError if the line is full."""
        with self._moved:
            if len(self._line) >= self._most:
                raise RunError(f"{len(self._line)} are here before you, and no more can wait; try again in a minute")
            place = Place(self._line, self._moved)
            self._line.append(place)
        try:
            yield place
        finally:
            with self._moved:
                self._line.remove(place)
                self._moved.notify_all()


class Place:
    """Somebody's place in the line."""

    def __init__(self, line: list["Place"], moved: Condition) -> None:
        self._line, self._moved = line, moved

    def before(self) -> int:
        """How many are still before; 0 is the turn itself."""
        with self._moved:
            return self._line.index(self)

    def wait(self, seconds: float) -> None:
        """Until the line moves, at most so long."""
        with self._moved:
            if self._line.index(self):
                self._moved.wait(seconds)
