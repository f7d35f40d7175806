"""Checks side by side, each in a process of its own: one that hangs or crashes is one line, not the end."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

from pipelines.doctor.check import Check, CheckResult, JobRequirements
from pipelines.runtime.logging import configure_logging
from pipelines.tracking.client import first_line

ProgressCallback = Callable[[int, int], None]


def run_checks(
    checks: Sequence[Check], requirements: JobRequirements, on_progress: ProgressCallback | None = None
) -> list[CheckResult]:
    """What all checks find, in their order; ``watch`` hears how many are done."""
    results: dict[str, list[CheckResult]] = {}
    exclusive, concurrent = ([check for check in checks if check.exclusive is alone] for alone in (True, False))
    for batch in (*([check] for check in exclusive), concurrent):
        running = [_CheckProcess(check, requirements) for check in batch]
        try:
            while pending := [each for each in running if each.check.name not in results]:
                for each in _wait_for_any(pending):
                    results[each.check.name] = each.results()
                    each.kill()
                    if on_progress:
                        on_progress(len(results), len(checks))
        finally:
            for each in running:
                each.kill()
    return [result for check in checks for result in results[check.name]]


class _CheckProcess:
    """A check under way."""

    def __init__(self, check: Check, requirements: JobRequirements) -> None:
        context = get_context("spawn")
        self.check, self.deadline = check, time.monotonic() + check.timeout_seconds
        self.parent_conn, child_conn = context.Pipe(duplex=False)
        self._process = context.Process(target=_worker_main, args=(check, requirements, child_conn), daemon=True)
        self._process.start()
        child_conn.close()

    def results(self) -> list[CheckResult]:
        """What it found, or how it ended without a word."""
        if not self.parent_conn.poll():
            load, cores = os.getloadavg()[0], os.cpu_count()
            return self.check.failure(
                f"no answer in {self.check.timeout_seconds:g} s, at a load of {load:.1f} on {cores} cores"
            )
        try:
            received: list[CheckResult] = self.parent_conn.recv()
            return received
        except EOFError:
            self._process.join()
            code = self._process.exitcode or 0
            return self.check.failure(f"crashed: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}")

    def kill(self) -> None:
        """End it with whatever it started: it has said everything, or never will."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()


def _wait_for_any(pending: Sequence[_CheckProcess]) -> list[_CheckProcess]:
    """Those that have answered, or whose time is up."""
    timeout = min(each.deadline for each in pending) - time.monotonic()
    ready = wait([each.parent_conn for each in pending], max(timeout, 0.0))
    return [each for each in pending if each.parent_conn in ready or each.deadline <= time.monotonic()]


def _worker_main(check: Check, requirements: JobRequirements, conn: Connection) -> None:
    """The process: libraries' chatter goes nowhere."""
    os.setsid()
    configure_logging()
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(devnull, stream)
    try:
        conn.send(check.run(requirements))
    except Exception as error:  # a check says by any error what is wrong
        conn.send(check.failure(f"{type(error).__name__}: {first_line(error)}"))
