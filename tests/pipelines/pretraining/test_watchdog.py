"""The watchdog ends a process that hangs, with one line on stderr and the stacks in a file."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BEGIN = """
import ctypes, sys, time
from pathlib import Path
from pipelines.pretraining import watchdog

def wait_for_peer(seconds):
    time.sleep(seconds)

def hold_the_gil(seconds):
    ctypes.PyDLL(None).sleep(seconds)  # unlike CDLL, PyDLL does not release the GIL

with watchdog.Watchdog(Path(sys.argv[1]), "rank 3") as dog:
"""


def run_watched(stacks: Path, *lines: str, after: str = "") -> subprocess.CompletedProcess[str]:
    """Run the lines in a process with a watchdog, and then ``after`` when the watchdog is closed."""
    code = BEGIN + "".join(f"    {line}\n" for line in lines) + after
    command = [sys.executable, "-c", code, str(stacks)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)  # noqa: S603 - our own command


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "rank_3.stacks"


def test_a_hang_ends_the_process_with_one_line_and_the_stacks(stacks: Path) -> None:
    process = run_watched(stacks, "dog.reset(1)", "wait_for_peer(50)")
    assert process.returncode == 1
    assert process.stderr == f"e4t: rank 3 hung for 1 s; stacks are in {stacks}\n"
    assert "in wait_for_peer" in stacks.read_text()


def test_a_hang_that_holds_the_gil_ends_the_process_too(stacks: Path) -> None:
    process = run_watched(stacks, "watchdog.GRACE_SECONDS = 1", "dog.reset(0.5)", "hold_the_gil(50)")
    assert process.returncode == 1
    assert "in hold_the_gil" in stacks.read_text()


def test_resetting_the_deadline_in_time_keeps_the_process_alive(stacks: Path) -> None:
    lines = ["dog.reset(3)", "for _ in range(8):", "    wait_for_peer(0.5)", "    dog.reset(3)"]
    process = run_watched(stacks, *lines, after="print('well')")
    assert (process.returncode, process.stdout, process.stderr) == (0, "well\n", "")
    assert stacks.read_text() == ""


def test_a_shorter_timeout_replaces_a_longer_one(stacks: Path) -> None:
    process = run_watched(stacks, "dog.reset(1000)", "dog.reset(0.5)", "wait_for_peer(50)")
    assert process.returncode == 1


def test_nothing_is_watched_before_the_first_reset(stacks: Path) -> None:
    assert run_watched(stacks, "wait_for_peer(2)").returncode == 0


def test_nothing_is_watched_after_the_watchdog_is_closed(stacks: Path) -> None:
    process = run_watched(stacks, "watchdog.GRACE_SECONDS = 0", "dog.reset(0.5)", after="wait_for_peer(2)")
    assert (process.returncode, process.stderr, stacks.read_text()) == (0, "", "")
