"""What a command does when a signal ends it: clean up, print one line, and exit with the code of the signal."""

import os
import signal
import sys
from contextlib import suppress

from data_prep.interrupts import Interrupted, SignalHandler, interrupt_exit_code
from pipelines.errors import EXIT_REQUEUE
from pipelines.runtime.launcher import launcher_pid

SCHEDULER_VARIABLES = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST")
"""Environment variables of jobs whose scheduler sends SIGTERM to stop them for a while, and starts them again."""


class Interruption:
    """The end of a command by a signal."""

    def __init__(self) -> None:
        self._launcher = launcher_pid()
        self._handler = SignalHandler(before_forced_exit=self._report, parent_pid=self._launcher)
        self._kept, self._requeue, self._reported = "", True, False

    def handle_signals(self) -> None:
        """Handle the signals from now on; until the command starts, they end the process at once."""
        self._handler.exit_at_once = True
        self._handler.install()

    def command_starts(self, kept: str) -> None:
        """Raise KeyboardInterrupt at a signal from now on.

        Args:
            kept: What an interrupted command has saved and a rerun continues from; empty if a rerun starts anew.
        """
        self._kept, self._requeue, self._handler.exit_at_once = kept, bool(kept), False

    def reraise(self) -> None:
        """Raise KeyboardInterrupt if there was a signal, because an exception after it comes from the clean-up."""
        if self._handler.received:
            raise Interrupted(self._handler.received)

    def report(self, error: KeyboardInterrupt) -> int:
        """Print one line and return the exit code. Libraries raise a KeyboardInterrupt of their own for any signal."""
        number = error.number if isinstance(error, Interrupted) else self._handler.received
        return self._report(number or signal.SIGINT)

    def exiting(self, exit_code: int) -> None:
        """Ignore signals from now on, because the process exits."""
        self._handler.exiting(exit_code)

    def _report(self, number: int) -> int:
        if self._launcher:  # which reports for all processes that it has started
            return interrupt_exit_code(number)
        if not self._reported and os.environ.get("RANK", "0") == "0":
            self._reported = True
            kept = f"; {self._kept} are kept, rerun to continue" if self._kept else ""
            with suppress(OSError):
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"e4t: interrupted{kept}\n".encode())
        scheduled = any(name in os.environ for name in SCHEDULER_VARIABLES)
        if number == signal.SIGTERM and scheduled and self._requeue:
            return EXIT_REQUEUE
        return interrupt_exit_code(number)
