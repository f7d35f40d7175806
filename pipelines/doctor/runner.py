"""Checks side by side, each in a process of its own: one that hangs or crashes is one line, not the end."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

from pipelines.doctor.check import Check, Finding, Needs
from pipelines.runtime.logging import quiet
from pipelines.tracking.client import first_line

Watch = Callable[[int, int], None]


def examine(checks: Sequence[Check], needs: Needs, watch: Watch | None = None) -> list[Finding]:
    """What all checks find, in their order; ``watch`` hears how many are done."""
    found: dict[str, list[Finding]] = {}
    first, rest = ([check for check in checks if check.alone is alone] for alone in (True, False))
    for together in (*([check] for check in first), rest):
        running = [_Running(check, needs) for check in together]
        try:
            while waiting := [each for each in running if each.check.name not in found]:
                for each in _next(waiting):
                    found[each.check.name] = each.answer()
                    each.end()
                    if watch:
                        watch(len(found), len(checks))
        finally:
            for each in running:
                each.end()
    return [finding for check in checks for finding in found[check.name]]


class _Running:
    """A check under way."""

    def __init__(self, check: Check, needs: Needs) -> None:
        context = get_context("spawn")
        self.check, self.deadline = check, time.monotonic() + check.seconds
        self.answers, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_look, args=(check, needs, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def answer(self) -> list[Finding]:
        """What it found, or how it ended without a word."""
        if not self.answers.poll():
            load, cores = os.getloadavg()[0], os.cpu_count()
            return self.check.failed(f"no answer in {self.check.seconds:g} s, at a load of {load:.1f} on {cores} cores")
        try:
            found: list[Finding] = self.answers.recv()
            return found
        except EOFError:
            self._process.join()
            code = self._process.exitcode or 0
            return self.check.failed(f"crashed: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}")

    def end(self) -> None:
        """End it with whatever it started: it has said everything, or never will."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()


def _next(waiting: Sequence[_Running]) -> list[_Running]:
    """Those that have answered, or whose time is up."""
    patience = min(each.deadline for each in waiting) - time.monotonic()
    ready = wait([each.answers for each in waiting], max(patience, 0.0))
    return [each for each in waiting if each.answers in ready or each.deadline <= time.monotonic()]


def _look(check: Check, needs: Needs, answers: Connection) -> None:
    """The process: libraries' chatter goes nowhere."""
    os.setsid()
    quiet()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    try:
        answers.send(check.look(needs))
    except Exception as error:  # a check says by any error what is wrong
        answers.send(check.failed(f"{type(error).__name__}: {first_line(error)}"))
