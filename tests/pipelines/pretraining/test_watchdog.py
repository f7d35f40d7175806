"""A process that hangs ends itself, says so in one line, and leaves where it hung."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BEGIN = """
import ctypes, sys, time
from pathlib import Path
from pipelines.pretraining import watchdog

def waiting_for_a_peer(seconds):
    time.sleep(seconds)

def hold_the_interpreter(seconds):
    ctypes.PyDLL(None).sleep(seconds)  # unlike CDLL it keeps the lock that every Python thread needs

with watchdog.Watchdog(Path(sys.argv[1]), "rank 3") as dog:
"""


def watched(stacks: Path, *lines: str, after: str = "") -> subprocess.CompletedProcess[str]:
    """Run the lines in a process with a watchdog, and ``after`` when it is closed."""
    code = BEGIN + "".join(f"    {line}\n" for line in lines) + after
    command = [sys.executable, "-c", code, str(stacks)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)  # noqa: S603 - our own command


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "rank_3.stacks"


def test_a_hang_ends_the_process_with_one_line_and_the_stacks(stacks: Path) -> None:
    process = watched(stacks, "dog.allow(1)", "waiting_for_a_peer(50)")
    assert process.returncode == 1
    assert process.stderr == f"e4t: rank 3 hung for 1 s; stacks are in {stacks}\n"
    assert "in waiting_for_a_peer" in stacks.read_text()


def test_a_hang_that_lets_no_python_run_ends_all_the_same(stacks: Path) -> None:
    process = watched(stacks, "watchdog.GRACE = 1", "dog.allow(0.5)", "hold_the_interpreter(50)")
    assert process.returncode == 1
    assert "in hold_the_interpreter" in stacks.read_text()


def test_who_is_allowed_more_time_in_time_goes_on(stacks: Path) -> None:
    lines = ["dog.allow(3)", "for _ in range(8):", "    waiting_for_a_peer(0.5)", "    dog.allow(3)"]
    process = watched(stacks, *lines, after="print('well')")
    assert (process.returncode, process.stdout, process.stderr) == (0, "well\n", "")
    assert stacks.read_text() == ""


def test_less_time_replaces_more(stacks: Path) -> None:
    process = watched(stacks, "dog.allow(1000)", "dog.allow(0.5)", "waiting_for_a_peer(50)")
    assert process.returncode == 1


def test_nothing_is_watched_before_the_first_time_is_given(stacks: Path) -> None:
    assert watched(stacks, "waiting_for_a_peer(2)").returncode == 0


def test_nothing_is_watched_after_the_end(stacks: Path) -> None:
    process = watched(stacks, "watchdog.GRACE = 0", "dog.allow(0.5)", after="waiting_for_a_peer(2)")
    assert (process.returncode, process.stderr, stacks.read_text()) == (0, "", "")
