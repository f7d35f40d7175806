"""What a scheduler does for a job: start it on its hosts, and start again whatever ends before it is done."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.faults.hosts import Host

DONE, WRONG_RECIPE = 0, 78
POLL, PAUSE, GRACE = 0.02, 0.5, 30.0
"""Seconds between two looks, before a start, and for the others to end once one host is done."""

# Without it torchrun gives a restarted group the store of the old one, and gloo finds addresses of the dead in it.
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class JobError(RuntimeError):
    """The job did not come to its end."""


class Supervisor:
    """Runs ``command`` on every host until one has ended with 0; use as a context manager, which leaves none behind.

    It gives up, with a JobError, after ``patience`` starts, all hosts' together.
    """

    def __init__(self, hosts: Sequence[Host], command: Sequence[str], log: Path, patience: int) -> None:
        self.hosts, self.command, self.log, self.patience = tuple(hosts), list(command), log, patience
        self.starts = 0
        self.done = False
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._not_before: dict[str, float] = {host.name: 0.0 for host in hosts}

    def __enter__(self) -> "Supervisor":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._look()
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            self.switch_off(host)

    def ranks(self) -> dict[int, int]:
        """Process id of each rank that runs, on whatever host."""
        return {rank: pid for host in self.hosts for rank, pid in host.ranks().items()}

    def switch_off(self, host: Host) -> None:
        """Kill everything on a host; nothing is started there until it is switched on."""
        self._not_before[host.name] = float("inf")
        host.kill()
        if process := self._running.pop(host.name, None):
            process.wait()

    def switch_on(self, host: Host) -> None:
        """Let the job start there again."""
        self._not_before[host.name] = 0.0

    def wait(self, seconds: float) -> None:
        """Let the job run for so long, or to its end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.done:
            self._look()
            time.sleep(POLL)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Let the job run until the condition holds, or to its end. Raises JobError at the limit."""
        end = time.monotonic() + seconds
        while not self.done and not condition():
            if time.monotonic() > end:
                raise JobError(f"nothing for {seconds:.0f} s; the log ends with: {self.last_words()}")
            self._look()
            time.sleep(POLL)

    def finish(self, seconds: float) -> None:
        """Let the job run to its end. Raises JobError at the limit."""
        self.wait_until(lambda: False, seconds)

    def last_words(self) -> str:
        """The end of the job's log."""
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-5:])

    def _look(self) -> None:
        for host in self.hosts:
            process = self._running.get(host.name)
            if process is None:
                if time.monotonic() >= self._not_before[host.name]:
                    self._start(host)
            elif process.poll() == DONE:
                self._end_the_others(host)
            elif process.returncode == WRONG_RECIPE:
                raise JobError(f"the recipe is wrong: {self.last_words()}")
            elif process.returncode is not None:
                host.kill()  # a scheduler leaves no orphans
                del self._running[host.name]
                self._not_before[host.name] = time.monotonic() + PAUSE

    def _start(self, host: Host) -> None:
        if self.starts == self.patience:
            raise JobError(f"ended {self.starts} times before it was done: {self.last_words()}")
        self.starts += 1
        self._running[host.name] = host.start(self.command, self.log, ENVIRONMENT)

    def _end_the_others(self, first: Host) -> None:
        """The rank on one host may fail because another was done before it: done is done."""
        end = time.monotonic() + GRACE
        for host in self.hosts:
            process = self._running.get(host.name)
            while process and process.poll() is None and time.monotonic() < end:
                time.sleep(POLL)
            if host is not first:
                self.switch_off(host)
        self.done = True
