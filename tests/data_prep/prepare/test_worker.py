"""Worker processes use one thread and reuse freed memory."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run_program(program: str, **environment: str) -> str:
    """Run a program in a new process, because the settings last as long as the process; return its output."""
    command = [
        sys.executable,
        "-c",
        f"from data_prep.prepare.worker import configure_worker_process; configure_worker_process(); {program}",
    ]
    variables = {name: value for name, value in os.environ.items() if name != "RAYON_NUM_THREADS"} | environment
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed program


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings apply to glibc only")
def test_freed_buffers_are_reused_without_page_faults() -> None:
    program = (
        "import resource, numpy as np\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def fill(): return [np.ones(size, np.uint8) for size in (3_000_000, 6_000_000, 9_000_000)]\n"
        "fill(); before = faults()\n"
        "for _ in range(20): fill()\n"
        "print(faults() - before)"
    )
    assert int(run_program(f"\n{program}")) < 4_394  # without the settings each of the 20 rounds faults in 4,394 pages


def test_the_process_gets_one_thread_unless_the_environment_says_otherwise() -> None:
    program = "import os; print(os.environ['RAYON_NUM_THREADS'])"
    assert (run_program(program), run_program(program, RAYON_NUM_THREADS="3")) == ("1", "3")
