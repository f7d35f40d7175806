"""Kill a job repeatedly and rerun it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

JOB = """
import sys
from data_prep.config import PrepareConfig
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare

if __name__ == "__main__":
    prepare(PrepareConfig(source=sys.argv[1], output=sys.argv[2], domain="cat", resolution=16, format="png",
                          shard_samples=3), LocalExecutor(workers=2))
"""


def start(script: Path, source: Path, output: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - fixed command
        [sys.executable, str(script), str(source), str(output)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of a job (Linux only), without Python's resource tracker."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    children = listed.read_text().split() if listed.exists() else []
    return [int(child) for child in children if b"spawn_main" in command_of(child)]


def command_of(pid: str) -> bytes:
    """Return the command line of a process, empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill_one_or_all(job: subprocess.Popen[bytes], rng: random.Random) -> None:
    """Send SIGKILL to a worker, if one runs, or to the whole job."""
    workers = workers_of(job.pid)
    if workers and rng.random() < 0.5:
        os.kill(rng.choice(workers), signal.SIGKILL)
        job.wait(timeout=60)
    os.killpg(job.pid, signal.SIGKILL) if job.poll() is None else None
    job.wait(timeout=60)


@pytest.mark.parametrize("kills", [8, pytest.param(30, marks=pytest.mark.long)])
def test_a_job_killed_at_random_moments_ends_with_the_bytes_of_an_undisturbed_one(
    kills: int,
    images: Path,
    read_files: Callable[[Path], dict[str, bytes]],
    tmp_path: Path,
) -> None:
    script, expected, killed = tmp_path / "job.py", tmp_path / "expected", tmp_path / "killed"
    script.write_text(JOB)
    start_time = time.monotonic()
    assert start(script, images, expected).wait(timeout=120) == 0
    duration, rng = time.monotonic() - start_time, random.Random(kills)
    for _ in range(kills):
        job = start(script, images, killed)
        time.sleep(rng.uniform(0.2, 1.0) * duration)
        kill_one_or_all(job, rng)
        if (killed / "manifest.json").exists():  # it finished before the kill: start over
            assert (killed / "manifest.json").read_bytes() == (expected / "manifest.json").read_bytes()
            shutil.rmtree(killed)
    assert start(script, images, killed).wait(timeout=120) == 0
    assert read_files(killed) == read_files(expected)
