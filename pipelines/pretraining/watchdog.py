"""The end of a step that never ends: every thread's stack in a file, one line for people, and the process is gone."""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import Self

from pipelines.errors import EXIT_FAILURE

GRACE_SECONDS = 15.0
"""Seconds after which the interpreter's own timer, which needs no Python, does what our thread could not."""


class Watchdog:
    """Ends the process unless it is told in time that all is well.

    A rank that hangs in a collective never comes back when its peer is gone; its scheduler can start it again.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Write stacks to ``file``; ``what`` begins the line, and says who was being watched."""
        self.name, self.path = name, path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a")
        self._deadline, self._timeout = float("inf"), 0.0
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def reset(self, timeout: float) -> None:
        """So long from now on, whatever was allowed before."""
        faulthandler.dump_traceback_later(timeout + GRACE_SECONDS, exit=True, file=self._file)
        self._deadline, self._timeout = time.monotonic() + timeout, timeout

    def __enter__(self) -> Self:
        """Nothing is watched before the first ``allow``."""
        return self

    def __exit__(self, *_: object) -> None:
        """Watch no more."""
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, max(0.05, self._deadline - time.monotonic()))):
            if time.monotonic() >= self._deadline:
                faulthandler.dump_traceback(self._file, all_threads=True)
                sys.stderr.write(f"e4t: {self.name} hung for {self._timeout:.0f} s; stacks are in {self.path}\n")
                sys.stderr.flush()
                os._exit(EXIT_FAILURE)
