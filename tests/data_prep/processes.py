"""Real processes that get real signals, and what is left of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0
"""Seconds until an event that does not come fails the test."""


def start(*command: str | Path, **environment: str) -> "subprocess.Popen[str]":
    """Start a Python program in a session of its own, without the variables of schedulers and launchers."""
    foreign = ("SLURM", "KUBERNETES", "JOB_COMPLETION", "E4T_LAUNCHER", "RANK", "WORLD_SIZE")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, *map(str, command)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, and fail if it does not become true."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for the end of a process and of all that it has started. Return its exit code and its errors."""
    try:
        errors = process.communicate(timeout=TIMEOUT)[1]
        wait_until(lambda: not session_of(process.pid))
    finally:
        for pid in session_of(process.pid):
            os.kill(pid, signal.SIGKILL)
    return process.returncode, errors


def session_of(leader: int) -> list[int]:
    """Return the processes of a session that run (Linux only)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended
            continue
        if int(session) == leader and state != "Z":
            found.append(int(folder.name))
    return found
