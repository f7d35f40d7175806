"""Turn SIGINT, SIGTERM and SIGHUP into an exception, so that every ``with`` block cleans up before the process ends."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

INTERRUPT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLEANUP_SECONDS = 10.0
"""Seconds from a signal to the end of the process, even if the clean-up hangs or a library has discarded the exception.
Must be less than 30: then SLURM and Kubernetes send SIGKILL by default."""
EXIT_SECONDS = 2.0
"""Seconds that the interpreter gets to exit after the clean-up. It waits for threads, which may hang in a read."""
RESEND_SECONDS = 0.1
"""Interval at which a signal is repeated until the main thread has handled it."""
POLL_SECONDS = 0.5
"""Interval at which the parent process is looked for."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end. It is a KeyboardInterrupt, because libraries treat that one correctly."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        """Number of the signal."""


def interrupt_exit_code(number: int) -> int:
    """Return the exit code of a process that a signal has ended, as shells report it."""
    return 128 + number


class SignalHandler:
    """Raises Interrupted in the main thread at the first signal; later ones are ignored, so that the clean-up finishes.

    A thread ends the process if it still exists ``CLEANUP_SECONDS`` later, for example in a function of a C library,
    during which Python runs no signal handlers. Signals that are ignored when the process starts (nohup) stay ignored.
    """

    def __init__(
        self, *, before_forced_exit: Callable[[int], int] = interrupt_exit_code, parent_pid: int | None = None
    ) -> None:
        """Prepare to handle signals.

        Args:
            before_forced_exit: Called with the number of the signal before the process ends without an exception;
                returns the exit code.
            parent_pid: Process without which this one has no purpose; its end has the same effect as SIGTERM.
        """
        self.received = 0
        """Number of the first signal, or 0."""
        self.exit_at_once = False
        """End the process without an exception, while there is nothing to clean up."""
        self._before_forced_exit, self._parent_pid = before_forced_exit, parent_pid
        self._exit_code: int | None = None
        self._exiting = threading.Event()
        self._handled: set[int] = set()

    def install(self) -> None:
        """Handle the signals from now on. Must be called in the main thread."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        sys.unraisablehook = self._note_discarded
        threading.Thread(target=self._watch, args=(reader,), daemon=True, name="e4t signals").start()
        for number in INTERRUPT_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handled.add(number)
                signal.signal(number, self._handle)

    def exiting(self, exit_code: int) -> None:
        """Ignore signals from now on: the process has cleaned up and exits with this code."""
        self._exit_code = exit_code
        self._exiting.set()
        for number in INTERRUPT_SIGNALS if self.received else ():
            signal.signal(number, signal.SIG_IGN)  # the interpreter restores other handlers to those that kill

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received or self._exiting.is_set():
            return
        if self.exit_at_once:
            os._exit(self._before_forced_exit(number))
        if not _is_importing(frame):  # otherwise the thread sends the signal again
            self.received = number
            raise Interrupted(number)

    def _note_discarded(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Note an Interrupted that was raised where Python discards exceptions, such as in a callback of a weakref."""
        if isinstance(unraisable.exc_value, Interrupted):
            self.received = 0
        else:
            sys.__unraisablehook__(unraisable)

    def _watch(self, reader: int) -> None:
        """Wait for a signal that this handler handles, or for the end of the parent process."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # only the main thread runs handlers
        while True:
            if select.select([reader], [], [], POLL_SECONDS)[0]:
                numbers = [number for number in os.read(reader, 64) if self._is_ours(number)]
                if numbers:
                    self._end_process(numbers[0])
            elif self._parent_pid not in (None, os.getppid()):
                self._parent_pid = None
                os.kill(os.getpid(), signal.SIGTERM)

    def _is_ours(self, number: int) -> bool:
        """Whether this handler handles a signal: no other one took its place, as that of pre-training does."""
        # The main thread may have cleaned up already, and ignores further signals since.
        return number in self._handled and signal.getsignal(number) in (self._handle, signal.SIG_IGN)

    def _end_process(self, number: int) -> None:
        """End the process if it does not end by itself in time."""
        deadline = time.monotonic() + CLEANUP_SECONDS
        while time.monotonic() < deadline:
            # The main thread imports a module, another thread got the signal, or the exception was discarded.
            if not self.received:
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            if self._exiting.wait(RESEND_SECONDS):
                time.sleep(EXIT_SECONDS)
                break
        os._exit(self._before_forced_exit(number) if self._exit_code is None else self._exit_code)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported. An exception would abort the process if the module is written in C++."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
