"""Ranks are processes: the first that fails ends the others and gives the exit code."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e4t_errors import ConfigError
from pipelines.runtime import launch as module
from pipelines.runtime.launch import is_distributed_worker, launch

ROOT = Path(__file__).parents[3]
LAUNCHER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})  # the working directory holds another e4t.py, which only the ranks run
from pipelines.runtime.launch import launch
try:
    sys.exit(launch(['any'], int(sys.argv[1])))
except KeyboardInterrupt as error:
    sys.exit(f"interrupted by {{error}}")
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace ``python -m e4t`` by a script with the given lines, in a temporary folder."""
    monkeypatch.chdir(tmp_path)

    def write_script(lines: str) -> None:
        start = "import fcntl, json, os, signal, sys, time\nfrom pathlib import Path\nrank = int(os.environ['RANK'])\n"
        (tmp_path / "e4t.py").write_text(start + lines)

    return write_script


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_exit_code_is_that_of_the_rank_that_failed(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(["prepare", "--recipe", "nope"], 2) == 78
    assert capfd.readouterr().err.count("e4t: ") == 1  # only rank 0 prints the error


def test_the_exit_code_is_0_if_no_rank_fails() -> None:
    assert launch(["--help"], 2) == 0


def test_each_rank_gets_the_variables_of_torchrun(command: Callable[[str], None], tmp_path: Path) -> None:
    command("Path(f'{rank}.json').write_text(json.dumps([sys.argv[1:], dict(os.environ)]))")
    assert launch(["pretrain", "--recipe", "faces"], 3) == 0
    environments = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert all(arguments == ["pretrain", "--recipe", "faces"] for arguments, _ in environments)
    variables = [
        tuple(e[key] for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")) for _, e in environments
    ]
    assert variables == [("0", "0", "3", "3"), ("1", "1", "3", "3"), ("2", "2", "3", "3")]
    assert len({(e["MASTER_ADDR"], e["MASTER_PORT"]) for _, e in environments}) == 1


def test_each_of_several_machines_starts_its_own_ranks(
    command: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NNODES": "3", "NODE_RANK": "1", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    command("Path(f'{rank}.json').write_text(json.dumps(dict(os.environ)))")
    assert launch([], 2) == 0
    environments = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (2, 3)]
    variables = [
        tuple(e[key] for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
        for e in environments
    ]
    assert variables == [("2", "0", "6", "node-0", "29500"), ("3", "1", "6", "node-0", "29500")]


def test_several_machines_need_a_rendezvous_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNODES", "2")
    with pytest.raises(ConfigError, match="set MASTER_ADDR and MASTER_PORT"):
        launch([], 1)


def test_the_requeue_exit_code_is_passed_on(command: Callable[[str], None]) -> None:
    command("sys.exit(75)")
    assert launch([], 2) == 75


def test_a_rank_killed_by_a_signal_is_a_failure_reported_in_one_line(
    command: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    command("time.sleep(0.5)\nif rank == 1: os.kill(os.getpid(), signal.SIGKILL)")
    assert launch([], 2) == 1
    error = capfd.readouterr().err
    assert error.startswith("e4t: rank process ")
    assert "ended by SIGKILL; rerun the command to resume" in error
    assert error.count("\n") == 1


def test_a_rank_that_waits_for_a_failed_one_is_killed(
    command: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("""
lock = Path('lock').open('w')
if rank == 0:
    fcntl.flock(lock, fcntl.LOCK_EX)
    Path('locked').touch()
    time.sleep(1000)
while not Path('locked').exists():
    time.sleep(0.05)
sys.exit(3)
""")
    monkeypatch.setattr(module, "PEER_EXIT_GRACE_SECONDS", 0.2)
    assert launch([], 2) == 3
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # rank 0 holds it until it ends


def test_the_other_ranks_have_time_to_report_an_error_of_their_own(
    command: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    command("if rank == 1: sys.exit(3)\ntime.sleep(1)\nsys.exit('rank 0 lost a peer')")
    assert launch([], 2) == 3
    assert capfd.readouterr().err == "rank 0 lost a peer\n"


def launcher(folder: Path, ranks: int) -> "subprocess.Popen[str]":
    """Start a launcher in its own process, and wait until all its ranks run (they write ``<rank>.pid``)."""
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # the thread that waits must receive the signal
    environment = os.environ | one_thread
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", LAUNCHER, str(ranks)], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(list(folder.glob("*.pid"))) == ranks)
    return process


ANNOUNCE = "Path(f'{rank}.new').write_text(str(os.getpid()))\nPath(f'{rank}.new').rename(f'{rank}.pid')\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_to_the_launcher_reaches_every_rank(command: Callable[[str], None], tmp_path: Path, name: str) -> None:
    save = "Path(f'{rank}.saved').touch()"
    command(f"signal.signal(signal.{name}, lambda *_: ({save}, sys.exit(75)))\n{ANNOUNCE}time.sleep(1000)")
    process = launcher(tmp_path, 2)
    process.send_signal(signal.Signals[name])
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 75
    assert sorted(path.name for path in tmp_path.glob("*.saved")) == ["0.saved", "1.saved"]


def test_a_rank_that_ends_while_the_launcher_handles_a_signal_is_not_missed(
    command: Callable[[str], None], tmp_path: Path
) -> None:
    """A scheduler may send the same signal to all processes of a job at once."""
    command(ANNOUNCE + "time.sleep(1000)")
    process = launcher(tmp_path, 1)
    rank = int((tmp_path / "0.pid").read_text())
    process.send_signal(signal.SIGSTOP)
    os.kill(rank, signal.SIGTERM)
    wait_for(lambda: Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    error = process.communicate(timeout=60)[1]
    assert error == "interrupted by SIGTERM\n"


def test_a_process_without_torchruns_variables_is_not_a_distributed_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert not is_distributed_worker()
    monkeypatch.setitem(os.environ, "RANK", "0")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    assert is_distributed_worker()


HANDLES_SIGNALS = """
from data_prep.interrupts import Interrupted, SignalHandler
from pipelines.runtime.launcher import launcher_pid
SignalHandler(parent_pid=launcher_pid()).install()
try:
    Path(f'{rank}.new').write_text(str(os.getpid()))
    Path(f'{rank}.new').rename(f'{rank}.pid')
    time.sleep(1000)
except Interrupted as error:
    Path(f'{rank}.interrupted').touch()
    sys.exit(128 + error.number)
"""


def test_a_signal_that_ends_the_ranks_ends_the_launcher_with_its_own_exception(
    command: Callable[[str], None], tmp_path: Path
) -> None:
    command(HANDLES_SIGNALS)
    process = launcher(tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == "interrupted by SIGTERM\n"
    assert len(list(tmp_path.glob("*.interrupted"))) == 2


def test_a_signal_to_one_rank_is_a_failure_reported_in_one_line(command: Callable[[str], None], tmp_path: Path) -> None:
    command(HANDLES_SIGNALS)
    process = launcher(tmp_path, 1)
    rank = int((tmp_path / "0.pid").read_text())
    os.kill(rank, signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert error == f"e4t: rank process {rank} ended by SIGTERM; rerun the command to resume\n"
    assert process.returncode == 1


def test_the_ranks_of_a_launcher_that_is_killed_clean_up_and_end(
    command: Callable[[str], None], tmp_path: Path
) -> None:
    command(HANDLES_SIGNALS)
    process = launcher(tmp_path, 2)
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: len(list(tmp_path.glob("*.interrupted"))) == 2)
