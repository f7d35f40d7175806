"""A bounded queue of visitors, of whom one computes at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from pipelines.errors import RunError


class WaitQueue:
    """A first-in, first-out queue of bounded length; its head holds the turn."""

    def __init__(self, max_waiting: int) -> None:
        """``max_waiting`` tickets may wait behind the one whose turn it is."""
        self._capacity, self._tickets, self._changed = max_waiting + 1, list[Ticket](), Condition()

    @contextmanager
    def ticket(self) -> Iterator["Ticket"]:
        """Take a ticket for the duration of the block. Raises RunError if the queue is full."""
        with self._changed:
            if len(self._tickets) >= self._capacity:
                raise RunError(f"the queue is full ({len(self._tickets)} visitors); try again in a minute")
            ticket = Ticket(self._tickets, self._changed)
            self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()


class Ticket:
    """A place in the queue."""

    def __init__(self, tickets: list["Ticket"], changed: Condition) -> None:
        self._tickets, self._changed = tickets, changed

    def num_ahead(self) -> int:
        """Return the number of tickets ahead; 0 means that it is this ticket's turn."""
        with self._changed:
            return self._tickets.index(self)

    def wait(self, seconds: float) -> None:
        """Block until the queue moves, for at most ``seconds``. Returns at once for the head of the queue."""
        with self._changed:
            if self._tickets.index(self):
                self._changed.wait(seconds)
