"""A signal ends a command and its processes, with one line, the exit code of the signal and no half-written file."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data_prep.conftest import make_images
from tests.data_prep.processes import end, start, wait_until

KEPT = "e4t: interrupted; finished shards are kept, rerun to continue\n"
HOLD = """
import os, threading
from pathlib import Path

def hold(metadata):
    Path(os.environ["HELD"], str(os.getpid())).touch()
    threading.Event().wait()
"""
PREPARE = ("-m", "e4t", "prepare", "--data.domain", "cat", "--data.resolution", "16", "--data.shard_samples", "5")


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder in which every worker writes a file before it waits for ever, while it writes its first shard."""
    (tmp_path / "hold.py").write_text(HOLD)
    (tmp_path / "held").mkdir()
    return tmp_path / "held"


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("interruption") / "images")


def start_preparing(source: Path, held: Path, *options: str, **environment: str) -> "subprocess.Popen[str]":
    """Start ``e4t prepare``; its workers call ``hold``."""
    paths = ("--data.source", source, "--data.output", held.parent / "out", "--data.filters.filter_fn", "hold:hold")
    python_path = f"{Path(__file__).parents[3]}:{held.parent}"
    return start(*PREPARE, *paths, *options, **{"PYTHONPATH": python_path, "HELD": str(held), **environment})


def workers(held: Path, number: int) -> Callable[[], bool]:
    return lambda: len(list(held.iterdir())) == number


def partial_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".partial")]


def test_a_signal_to_the_command_alone_ends_its_workers(source: Path, held: Path) -> None:
    command = start_preparing(source, held, "--workers", "2")
    wait_until(workers(held, 2))
    assert len(partial_files(held.parent)) == 2
    command.send_signal(signal.SIGTERM)
    assert end(command) == (143, KEPT)
    assert partial_files(held.parent) == []


def test_ctrl_c_in_a_terminal_reaches_all_processes_and_prints_one_line(source: Path, held: Path) -> None:
    command = start_preparing(source, held, "--workers", "2")
    wait_until(workers(held, 2))
    os.killpg(command.pid, signal.SIGINT)
    os.killpg(command.pid, signal.SIGINT)
    assert end(command) == (130, KEPT)
    assert partial_files(held.parent) == []


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", pytest.param("KUBERNETES_SERVICE_HOST", marks=pytest.mark.long)])
def test_a_scheduler_starts_a_stopped_task_again(source: Path, held: Path, variable: str) -> None:
    command = start_preparing(source, held, "--stage", "work", **{variable: "1"})
    wait_until(workers(held, 1))
    command.send_signal(signal.SIGTERM)
    assert end(command) == (75, KEPT)
    assert partial_files(held.parent) == []


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)])
def test_a_signal_during_the_imports_ends_the_command_in_one_line(source: Path, held: Path, seed: int) -> None:
    command = start("-X", "importtime", *PREPARE, "--data.source", source, "--data.output", held.parent / "out")
    assert command.stderr
    modules = random.Random(seed).choice(("jsonargparse", "yaml", "data_prep.config.prepare"))
    while not (line := command.stderr.readline()).rstrip().endswith(modules):
        assert line
    command.send_signal(signal.SIGINT)
    code, errors = end(command)
    assert code == 130
    assert [line for line in errors.splitlines() if not line.startswith("import time:")] == ["e4t: interrupted"]


@pytest.mark.parametrize(
    ("redirected", "code", "error"),
    [
        ("| true", 141, ""),
        (">&-", 0, ""),
        ("> /dev/full", 1, "e4t: standard output cannot be written (No space left on device); make room or redirect "),
    ],
)
def test_an_output_that_cannot_be_written_causes_no_traceback(redirected: str, code: int, error: str) -> None:
    shell = "import os, sys; os.execvp('bash', ['bash', '-c', sys.argv[1], sys.executable])"
    printed = end(start("-c", shell, f"set -o pipefail; $0 -m e4t --help {redirected}"))
    assert printed[0] == code
    assert printed[1].startswith(error) and printed[1].count("\n") == bool(error)


@pytest.mark.long
def test_signals_at_random_moments_leave_no_process_and_no_temporary_file(source: Path, tmp_path: Path) -> None:
    rng, out = random.Random(5), tmp_path / "out"
    arguments = [*PREPARE, "--data.source", str(source), "--data.output", str(out)]
    undisturbed = start(*arguments[:-1], tmp_path / "expected", "--workers", "2")
    duration = timed(lambda: end(undisturbed))
    numbers = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}
    for _ in range(30):
        command = start(*arguments, "--workers", str(rng.choice((1, 2))))
        sent, to_group = rng.choice(list(numbers)), rng.random() < 0.5
        try:
            wait_until(lambda started=command: handles_signals(started.pid))
            command.wait(rng.uniform(0.0, 0.9) * duration)
        except subprocess.TimeoutExpired:
            (os.killpg if to_group else os.kill)(command.pid, sent)
        code, errors = end(command)
        finished = (out / "manifest.json").exists()
        # Python does not handle signals while the interpreter exits.
        assert code in (0, numbers[sent]) or (finished and code == -sent)
        assert errors.count("\n") <= (sent != signal.SIGKILL)
        assert sent == signal.SIGKILL or not partial_files(out)
        if finished:
            shutil.rmtree(out)
    assert end(start(*arguments)) == (0, "")
    assert (out / "manifest.json").read_bytes() == (tmp_path / "expected" / "manifest.json").read_bytes()


def handles_signals(pid: int) -> bool:
    """Whether a process handles SIGTERM, so that the interpreter has started (Linux only)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1]
    return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a function takes."""
    started = time.monotonic()
    function()
    return time.monotonic() - started
