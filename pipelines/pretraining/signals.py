"""Stop training early, on a signal to any rank or at a time limit. All ranks stop after the same step."""

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Self

from e4t_errors import ConfigError

REPEAT_SECONDS = 1.0
"""Two SIGINT within this time count as one: Ctrl-C in a terminal reaches a rank twice, also through its launcher."""
TIME_LIMIT = 1000
"""Number that stands for the time limit among signal numbers, larger than all of them."""


class StopSignalHandler:
    """Record signals and the time limit, and report them when the training loop asks.

    Only a second SIGINT raises KeyboardInterrupt at once, for a user who does not want to wait for the checkpoint.
    """

    def __init__(self, signal_names: Sequence[str], *, max_minutes: float | None = None) -> None:
        """Handle these signals inside the ``with`` block. The time limit counts from now."""
        self.signal_numbers = {_signal_number(name) for name in signal_names}
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._received, self._received_at = 0, 0.0
        self._previous_handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Install the signal handlers."""
        self._previous_handlers = {number: signal.signal(number, self._handle) for number in self.signal_numbers}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._received != number:
            self._received, self._received_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._received_at > REPEAT_SECONDS:
            raise KeyboardInterrupt

    def should_stop(self, all_reduce_max: Callable[[int], int]) -> str:
        """Return the reason to stop now, a signal name or "time limit reached", or an empty string.

        ``all_reduce_max`` returns the largest number of all ranks, so that all of them decide the same. Every rank must
        call this, and each call waits for the other ranks' hosts.
        """
        timed_out = self.deadline is not None and time.monotonic() >= self.deadline
        number = all_reduce_max(self._received or (TIME_LIMIT if timed_out else 0))
        if not number:
            return ""
        return "time limit reached" if number == TIME_LIMIT else signal.Signals(number).name


def _signal_number(name: str) -> int:
    number = signal.Signals.__members__.get(name)
    if number in (None, signal.SIGKILL, signal.SIGSTOP):
        raise ConfigError(
            f"pretrain.stop_signal is {name!r}, which is not a signal that a process can handle; use SIGUSR2, for "
            "example"
        )
    return int(number)
