"""A process that makes pictures keeps to one core and to its memory."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def said(program: str, **environment: str) -> str:
    """What a fresh process says; the settings are for good."""
    command = [
        sys.executable,
        "-c",
        f"from data_prep.prepare.worker import configure_worker_process; configure_worker_process(); {program}",
    ]
    variables = {name: value for name, value in os.environ.items() if name != "RAYON_NUM_THREADS"} | environment
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - our own program


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries go without")
def test_a_buffer_that_was_freed_serves_again_without_the_kernel() -> None:
    program = (
        "import resource, numpy as np\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def fill(): return [np.ones(size, np.uint8) for size in (3_000_000, 6_000_000, 9_000_000)]\n"
        "fill(); before = faults()\n"
        "for _ in range(20): fill()\n"
        "print(faults() - before)"
    )
    assert int(said(f"\n{program}")) < 4_394  # it is 4,394 pages, 20 times


def test_one_thread_is_what_it_gets_unless_told_otherwise() -> None:
    program = "import os; print(os.environ['RAYON_NUM_THREADS'])"
    assert (said(program), said(program, RAYON_NUM_THREADS="3")) == ("1", "3")
