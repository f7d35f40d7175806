"""Processes end when the process that started them ends, however it ends, and remove their temporary files."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from data_prep.processes import ProcessDiedError, run_processes
from tests.data_prep.processes import end, session_of, start, wait_until

JOB = """
import os, sys, threading
from pathlib import Path
from data_prep import processes
from data_prep.storage.atomic import atomic_open

def write(folder, name):
    with atomic_open(Path(folder, name)):
        Path(folder, f"{name}.started").touch()
        threading.Event().wait()

if __name__ == "__main__":
    try:
        processes.TERMINATE_SECONDS = float(sys.argv[2])
        processes.run_processes(write, [(sys.argv[1], name) for name in "ab"])
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start_writing(folder: Path, terminate_seconds: float = 60.0) -> "subprocess.Popen[str]":
    """Start a job whose two processes have each begun to write a file."""
    (folder / "job.py").write_text(JOB)
    (folder / "out").mkdir()
    job = start(folder / "job.py", folder / "out", str(terminate_seconds))
    wait_until(lambda: len(list((folder / "out").glob("*.started"))) == 2)
    return job


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


def test_processes_end_after_a_signal_to_their_parent_alone(tmp_path: Path) -> None:
    job = start_writing(tmp_path)
    os.kill(job.pid, signal.SIGINT)
    assert end(job) == (130, "")
    assert files_of(tmp_path) == ["a.started", "b.started"]


def test_processes_end_after_a_signal_to_all_of_them_as_from_a_terminal(tmp_path: Path) -> None:
    job = start_writing(tmp_path)
    os.killpg(job.pid, signal.SIGINT)
    assert end(job) == (130, "")
    assert files_of(tmp_path) == ["a.started", "b.started"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_when_their_parent_has_been_killed(tmp_path: Path, number: int) -> None:
    job = start_writing(tmp_path)
    os.kill(job.pid, number)
    assert end(job) == (-number, "")
    assert files_of(tmp_path) == ["a.started", "b.started"]


def test_a_process_that_was_stopped_is_killed(tmp_path: Path) -> None:
    """It cannot clean up."""
    job = start_writing(tmp_path, terminate_seconds=0.2)
    stopped = max(session_of(job.pid))
    os.kill(stopped, signal.SIGSTOP)
    os.kill(job.pid, signal.SIGINT)
    assert end(job) == (130, "")


def test_a_process_that_was_killed_ends_the_others_and_is_an_error(tmp_path: Path) -> None:
    job = start_writing(tmp_path)
    os.kill(max(session_of(job.pid)), signal.SIGKILL)
    code, errors = end(job)
    assert code == 1
    assert errors.endswith("ProcessDiedError: a process died (SIGKILL)\n")


def fail(number: int) -> None:
    raise ValueError(f"process {number}")


def test_an_error_has_the_traceback_of_the_process() -> None:
    with pytest.raises(ValueError, match="process 7") as raised:
        run_processes(fail, [(7,)])
    assert 'raise ValueError(f"process {number}")' in raised.value.__notes__[0]


def test_a_process_that_exits_is_an_error() -> None:
    with pytest.raises(ProcessDiedError, match="exit code 3"):
        run_processes(os._exit, [(3,)])
