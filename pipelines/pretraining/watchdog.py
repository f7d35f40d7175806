"""End a process that hangs, and write the stack of every thread to a file."""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import Self

from pipelines.errors import EXIT_FAILURE

GRACE_SECONDS = 15.0
"""Seconds after the deadline at which ``faulthandler`` ends the process, if a C call keeps the GIL from our thread."""


class Watchdog:
    """End the process with exit code 1 unless ``reset`` is called before the deadline.

    A rank whose peer is gone may wait in a collective forever; once it has ended, the scheduler can restart the job.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Write stacks to ``path``. ``name`` says in the error line who hung. Nothing is watched before ``reset``."""
        self.name, self.path = name, path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a")
        self._deadline, self._timeout = float("inf"), 0.0
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def reset(self, timeout: float) -> None:
        """Set the deadline to ``timeout`` seconds from now."""
        faulthandler.dump_traceback_later(timeout + GRACE_SECONDS, exit=True, file=self._file)
        self._deadline, self._timeout = time.monotonic() + timeout, timeout

    def __enter__(self) -> Self:
        """Return the watchdog, which watches from the first ``reset`` on."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, max(0.05, self._deadline - time.monotonic()))):
            if time.monotonic() >= self._deadline:
                faulthandler.dump_traceback(self._file, all_threads=True)
                sys.stderr.write(f"e4t: {self.name} hung for {self._timeout:.0f} s; stacks are in {self.path}\n")
                sys.stderr.flush()
                os._exit(EXIT_FAILURE)
