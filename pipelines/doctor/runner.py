"""Run checks in parallel, each in its own process, so that one that hangs or crashes does not stop the others."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

from data_prep.processes import handle_signals_in_process, starting_processes
from pipelines.doctor.check import Check, CheckResult, JobRequirements
from pipelines.runtime.logging import configure_logging
from pipelines.tracking.client import first_line

ProgressCallback = Callable[[int, int], None]


def run_checks(
    checks: Sequence[Check], requirements: JobRequirements, on_progress: ProgressCallback | None = None
) -> list[CheckResult]:
    """Run all checks and return their results in the order of ``checks``.

    Args:
        checks: The checks. Exclusive ones run first, one at a time; the others run at once.
        requirements: The job that the machine is checked for.
        on_progress: Called with the number of finished checks and of all checks.
    """
    results: dict[str, list[CheckResult]] = {}
    exclusive, concurrent = ([check for check in checks if check.exclusive is exclusive] for exclusive in (True, False))
    for batch in (*([check] for check in exclusive), concurrent):
        running: list[_CheckProcess] = []
        try:
            for check in batch:
                running.append(_CheckProcess(check, requirements))  # noqa: PERF401 - those that started are killed below
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
    """A check that runs in a child process."""

    def __init__(self, check: Check, requirements: JobRequirements) -> None:
        context = get_context("spawn")
        self.check, self.deadline = check, time.monotonic() + check.timeout_seconds
        self.parent_conn, child_conn = context.Pipe(duplex=False)
        self._process = context.Process(target=_worker_main, args=(check, requirements, child_conn), daemon=True)
        with starting_processes():
            self._process.start()
        child_conn.close()

    def results(self) -> list[CheckResult]:
        """Return the results, or a failure if the process timed out or crashed."""
        if not self.parent_conn.poll():
            load, cores = os.getloadavg()[0], os.cpu_count()
            return self.check.failure(
                f"timed out after {self.check.timeout_seconds:g} s (load average {load:.1f} on {cores} cores)"
            )
        try:
            received: list[CheckResult] = self.parent_conn.recv()
            return received
        except EOFError:
            self._process.join()
            code = self._process.exitcode or 0
            return self.check.failure(f"crashed: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}")

    def kill(self) -> None:
        """Kill the process and all processes that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()


def _wait_for_any(pending: Sequence[_CheckProcess]) -> list[_CheckProcess]:
    """Wait until a process has answered or reached its deadline, and return all such processes."""
    timeout = min(each.deadline for each in pending) - time.monotonic()
    ready = wait([each.parent_conn for each in pending], max(timeout, 0.0))
    return [each for each in pending if each.parent_conn in ready or each.deadline <= time.monotonic()]


def _worker_main(check: Check, requirements: JobRequirements, conn: Connection) -> None:
    """Entry point of the child process. Output of libraries is discarded."""
    os.setsid()
    handle_signals_in_process()
    configure_logging()
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(devnull, stream)
    try:
        conn.send(check.run(requirements))
    except Exception as error:  # any exception of a check is its result
        conn.send(check.failure(f"{type(error).__name__}: {first_line(error)}"))
