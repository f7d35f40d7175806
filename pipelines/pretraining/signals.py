"""When to stop before the end: a signal to any rank, or the time that was given. All ranks stop at the same step."""

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Self

from e4t import ConfigError

TIME_LIMIT = 1000
"""Beyond every signal's number."""


class StopSignalHandler:
    """Listens for signals and looks at the clock; the loop asks, and nothing is interrupted.

    A second SIGINT interrupts at once: somebody at the terminal does not want to wait for the save.
    """

    def __init__(self, signal_names: Sequence[str], *, max_minutes: float | None = None) -> None:
        """Take signals' names, and for how long to go on."""
        self.signal_numbers = {_signal_number(name) for name in signal_names}
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._received = 0
        self._previous_handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Listen."""
        self._previous_handlers = {number: signal.signal(number, self._handle) for number in self.signal_numbers}
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the signals as they were."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number

    def should_stop(self, all_reduce_max: Callable[[int], int]) -> str:
        """Why to stop now, empty if not; ``agree`` gives the largest of all ranks' numbers, so that all do the same."""
        timed_out = self.deadline is not None and time.monotonic() >= self.deadline
        number = all_reduce_max(self._received or (TIME_LIMIT if timed_out else 0))
        if not number:
            return ""
        return "time is up" if number == TIME_LIMIT else signal.Signals(number).name


def _signal_number(name: str) -> int:
    number = signal.Signals.__members__.get(name)
    if number in (None, signal.SIGKILL, signal.SIGSTOP):
        raise ConfigError(f"pretrain.stop_signal is {name!r}, which nobody can listen for; give one like SIGUSR2")
    return int(number)
