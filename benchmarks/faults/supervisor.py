"""Do what a scheduler does for a job: start it on its hosts, and restart it whenever it ends early."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.faults.hosts import Host

EXIT_OK, EXIT_CONFIG_ERROR = 0, 78
POLL, PAUSE, GRACE = 0.02, 0.5, 30.0
"""Seconds between two polls, before a restart, and for the other hosts to end once one has finished."""

# Otherwise torchrun gives a restarted group the store of the previous one, which holds addresses of dead processes.
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class JobError(RuntimeError):
    """The job did not finish."""


class Supervisor:
    """Context manager that runs ``command`` on every host until it exits with code 0 on one of them.

    Raises JobError after ``max_starts`` starts, counted over all hosts. On exit all processes of the job are killed.
    """

    def __init__(self, hosts: Sequence[Host], command: Sequence[str], log: Path, max_starts: int) -> None:
        self.hosts, self.command, self.log, self.max_starts = tuple(hosts), list(command), log, max_starts
        self.starts = 0
        self.done = False
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._not_before: dict[str, float] = {host.name: 0.0 for host in hosts}

    def __enter__(self) -> "Supervisor":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._poll()
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            self.switch_off(host)

    def ranks(self) -> dict[int, int]:
        """Return the process id of each running rank, on all hosts."""
        return {rank: pid for host in self.hosts for rank, pid in host.ranks().items()}

    def switch_off(self, host: Host) -> None:
        """Kill all processes of a host, and start none there until ``switch_on``."""
        self._not_before[host.name] = float("inf")
        host.kill()
        if process := self._running.pop(host.name, None):
            process.wait()

    def switch_on(self, host: Host) -> None:
        """Start the job on this host again."""
        self._not_before[host.name] = 0.0

    def wait(self, seconds: float) -> None:
        """Let the job run for ``seconds``, or until it finishes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.done:
            self._poll()
            time.sleep(POLL)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Let the job run until the condition holds or it finishes. Raises JobError after ``seconds``."""
        end = time.monotonic() + seconds
        while not self.done and not condition():
            if time.monotonic() > end:
                raise JobError(f"no progress for {seconds:.0f} s; the log ends with: {self.log_tail()}")
            self._poll()
            time.sleep(POLL)

    def finish(self, seconds: float) -> None:
        """Let the job run until it finishes. Raises JobError after ``seconds``."""
        self.wait_until(lambda: False, seconds)

    def log_tail(self) -> str:
        """Return the last lines of the job's log."""
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-5:])

    def _poll(self) -> None:
        for host in self.hosts:
            process = self._running.get(host.name)
            if process is None:
                if time.monotonic() >= self._not_before[host.name]:
                    self._start(host)
            elif process.poll() == EXIT_OK:
                self._stop_other_hosts(host)
            elif process.returncode == EXIT_CONFIG_ERROR:
                raise JobError(f"the configuration is wrong: {self.log_tail()}")
            elif process.returncode is not None:
                host.kill()  # schedulers kill what a job leaves behind
                del self._running[host.name]
                self._not_before[host.name] = time.monotonic() + PAUSE

    def _start(self, host: Host) -> None:
        if self.starts == self.max_starts:
            raise JobError(f"ended {self.starts} times without finishing: {self.log_tail()}")
        self.starts += 1
        self._running[host.name] = host.start(self.command, self.log, ENVIRONMENT)

    def _stop_other_hosts(self, first: Host) -> None:
        """Wait for the other hosts. Failures there are ignored: ranks may fail when another one finishes first."""
        end = time.monotonic() + GRACE
        for host in self.hosts:
            process = self._running.get(host.name)
            while process and process.poll() is None and time.monotonic() < end:
                time.sleep(POLL)
            if host is not first:
                self.switch_off(host)
        self.done = True
