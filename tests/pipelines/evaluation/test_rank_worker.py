"""Tests of the worker processes that compute results."""

import signal
import subprocess
import sys
import time
from pathlib import Path

POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from pipelines.evaluation.runner import init_worker
pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), init_worker)
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 100).result()
"""


def test_a_worker_exits_when_its_parent_process_is_killed() -> None:
    command = [sys.executable, "-c", POOL]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    assert parent.stdout
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while (running := is_running(worker)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running


def is_running(process: int) -> bool:
    try:
        state = (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
