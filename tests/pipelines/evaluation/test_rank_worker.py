"""A process of the pool that makes results."""

import signal
import subprocess
import sys
import time
from pathlib import Path

POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from pipelines.evaluation.runner import begin_worker
pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin_worker)
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 100).result()
"""


def test_workers_end_when_the_one_that_started_them_is_killed() -> None:
    command = [sys.executable, "-c", POOL]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    assert parent.stdout
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while (still := runs(worker)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not still


def runs(process: int) -> bool:
    try:
        state = (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
