"""A job that is killed, again and again, and the same command after it."""

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
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, str(script), str(source), str(output)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )


def workers_of(pid: int) -> list[int]:
    """Workers that it started, where the system tells; Python's own tracker of resources is none."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    children = listed.read_text().split() if listed.exists() else []
    return [int(child) for child in children if b"spawn_main" in command_of(child)]


def command_of(pid: str) -> bytes:
    """Empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill_one_or_all(job: subprocess.Popen[bytes], rng: random.Random) -> None:
    """``kill -9`` for a worker, if one runs, or for the whole job."""
    workers = workers_of(job.pid)
    if workers and rng.random() < 0.5:
        os.kill(rng.choice(workers), signal.SIGKILL)
        job.wait(timeout=60)
    os.killpg(job.pid, signal.SIGKILL) if job.poll() is None else None
    job.wait(timeout=60)


@pytest.mark.parametrize("kills", [8, pytest.param(30, marks=pytest.mark.long)])
def test_a_job_killed_at_random_moments_ends_with_the_bytes_of_an_undisturbed_one(
    kills: int,
    pictures: Path,
    contents: Callable[[Path], dict[str, bytes]],
    tmp_path: Path,
) -> None:
    script, calm, disturbed = tmp_path / "job.py", tmp_path / "calm", tmp_path / "disturbed"
    script.write_text(JOB)
    began = time.monotonic()
    assert start(script, pictures, calm).wait(timeout=120) == 0
    duration, rng = time.monotonic() - began, random.Random(kills)
    for _ in range(kills):
        job = start(script, pictures, disturbed)
        time.sleep(rng.uniform(0.2, 1.0) * duration)
        kill_one_or_all(job, rng)
        if (disturbed / "manifest.json").exists():  # it came to its end in spite of us: the next one begins anew
            assert (disturbed / "manifest.json").read_bytes() == (calm / "manifest.json").read_bytes()
            shutil.rmtree(disturbed)
    assert start(script, pictures, disturbed).wait(timeout=120) == 0
    assert contents(disturbed) == contents(calm)
