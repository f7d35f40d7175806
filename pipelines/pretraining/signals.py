"""When to stop before the end: a signal to any rank, or the time that was given. All ranks stop at the same step."""

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Self

from encoder.errors import ConfigError

TIME_IS_UP = 1000
"""Beyond every signal's number."""


class Stopper:
    """Listens for signals and looks at the clock; the loop asks, and nothing is interrupted.

    A second SIGINT interrupts at once: somebody at the terminal does not want to wait for the save.
    """

    def __init__(self, names: Sequence[str], *, minutes: float | None = None) -> None:
        """Take signals' names, and for how long to go on."""
        self.numbers = {_number(name) for name in names}
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._came = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Listen."""
        self._before = {number: signal.signal(number, self._note) for number in self.numbers}
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the signals as they were."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._came == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._came = number

    def asked(self, agree: Callable[[int], int]) -> str:
        """Why to stop now, empty if not; ``agree`` gives the largest of all ranks' numbers, so that all do the same."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        number = agree(self._came or (TIME_IS_UP if late else 0))
        if not number:
            return ""
        return "time is up" if number == TIME_IS_UP else signal.Signals(number).name


def _number(name: str) -> int:
    number = signal.Signals.__members__.get(name)
    if number in (None, signal.SIGKILL, signal.SIGSTOP):
        raise ConfigError(f"pretrain.stop_signal is {name!r}, which nobody can listen for; give one like SIGUSR2")
    return int(number)
