"""Whose turn it is: one computes at a time, first come, first served, and only so many wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from pipelines.errors import RunError


class WaitQueue:
    """A line of bounded length; its head has the turn."""

    def __init__(self, max_waiting: int) -> None:
        """``waiting`` may stand behind the one whose turn it is."""
        self._capacity, self._tickets, self._changed = max_waiting + 1, list[Ticket](), Condition()

    @contextmanager
    def ticket(self) -> Iterator["Ticket"]:
        """A place in the line, given back however the block ends. Raises RunError if the line is full."""
        with self._changed:
            if len(self._tickets) >= self._capacity:
                raise RunError(f"{len(self._tickets)} are here before you, and no more can wait; try again in a minute")
            place = Ticket(self._tickets, self._changed)
            self._tickets.append(place)
        try:
            yield place
        finally:
            with self._changed:
                self._tickets.remove(place)
                self._changed.notify_all()


class Ticket:
    """Somebody's place in the line."""

    def __init__(self, tickets: list["Ticket"], changed: Condition) -> None:
        self._tickets, self._changed = tickets, changed

    def num_ahead(self) -> int:
        """How many are still before; 0 is the turn itself."""
        with self._changed:
            return self._tickets.index(self)

    def wait(self, seconds: float) -> None:
        """Until the line moves, at most so long."""
        with self._changed:
            if self._tickets.index(self):
                self._changed.wait(seconds)
