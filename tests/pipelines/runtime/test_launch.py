"""Ranks as processes: the first that fails ends the others, and what a scheduler sees is what happened."""

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

from e4t import ConfigError
from pipelines.runtime import launch as module
from pipelines.runtime.launch import is_distributed_worker, launch

ROOT = Path(__file__).parents[3]
LAUNCHER = "import sys; from pipelines.runtime.launch import launch; sys.exit(launch(['any'], int(sys.argv[1])))"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let ``python -m e4t`` be another program: these lines, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def be(lines: str) -> None:
        start = "import fcntl, json, os, signal, sys, time\nfrom pathlib import Path\nrank = int(os.environ['RANK'])\n"
        (tmp_path / "e4t.py").write_text(start + lines)

    return be


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_ranks_exit_code_is_the_launchers(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(["prepare", "--recipe", "nope"], 2) == 78
    assert capfd.readouterr().err.count("e4t: ") == 1  # rank 0 speaks for all


def test_ranks_that_end_well_end_the_launch_well() -> None:
    assert launch(["--help"], 2) == 0


def test_each_rank_is_told_its_place(command: Callable[[str], None], tmp_path: Path) -> None:
    command("Path(f'{rank}.json').write_text(json.dumps([sys.argv[1:], dict(os.environ)]))")
    assert launch(["pretrain", "--recipe", "faces"], 3) == 0
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert all(arguments == ["pretrain", "--recipe", "faces"] for arguments, _ in told)
    places = [tuple(e[key] for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")) for _, e in told]
    assert places == [("0", "0", "3", "3"), ("1", "1", "3", "3"), ("2", "2", "3", "3")]
    assert len({(e["MASTER_ADDR"], e["MASTER_PORT"]) for _, e in told}) == 1


def test_one_of_several_machines_starts_its_own_ranks(
    command: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NNODES": "3", "NODE_RANK": "1", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    command("Path(f'{rank}.json').write_text(json.dumps(dict(os.environ)))")
    assert launch([], 2) == 0
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (2, 3)]
    places = [tuple(e[key] for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")) for e in told]
    assert places == [("2", "0", "6", "node-0", "29500"), ("3", "1", "6", "node-0", "29500")]


def test_several_machines_must_know_where_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNODES", "2")
    with pytest.raises(ConfigError, match="set MASTER_ADDR and MASTER_PORT"):
        launch([], 1)


def test_to_be_started_again_is_passed_on(command: Callable[[str], None]) -> None:
    command("sys.exit(75)")
    assert launch([], 2) == 75


def test_a_rank_that_a_signal_ends_is_a_failure_in_one_line(
    command: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    command("time.sleep(0.5)\nif rank == 1: os.kill(os.getpid(), signal.SIGKILL)")
    assert launch([], 2) == 1
    error = capfd.readouterr().err
    assert error.startswith("e4t: a rank (process ")
    assert "was ended by SIGKILL; the same command goes on" in error
    assert error.count("\n") == 1


def test_a_rank_that_waits_for_one_that_failed_is_ended(
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
    monkeypatch.setattr(module, "SECONDS_TO_FALL", 0.2)
    assert launch([], 2) == 3
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # rank 0 has it for as long as it lives


def test_a_rank_may_say_why_it_fell_with_the_first(
    command: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    command("if rank == 1: sys.exit(3)\ntime.sleep(1)\nsys.exit('rank 0 has lost another')")
    assert launch([], 2) == 3
    assert capfd.readouterr().err == "rank 0 has lost another\n"


def launcher(folder: Path, ranks: int) -> "subprocess.Popen[str]":
    """A launcher in a process of its own, when all its ranks have begun (they leave ``<rank>.pid``)."""
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # that which waits has to take the signal
    environment = os.environ | one_thread | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", LAUNCHER, str(ranks)], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(list(folder.glob("*.pid"))) == ranks)
    return process


ANNOUNCE = "Path(f'{rank}.new').write_text(str(os.getpid()))\nPath(f'{rank}.new').rename(f'{rank}.pid')\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_to_the_launcher_reaches_every_rank(command: Callable[[str], None], tmp_path: Path, name: str) -> None:
    save = "Path(f'{rank}.saved').touch()"
    command(f"signal.signal(signal.{name}, lambda *_: ({save}, sys.exit(75)))\n{ANNOUNCE}time.sleep(1000)")
    process = launcher(tmp_path, 2)
    process.send_signal(signal.Signals[name])
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 75
    assert sorted(path.name for path in tmp_path.glob("*.saved")) == ["0.saved", "1.saved"]


def test_a_rank_that_ends_as_the_launcher_gets_a_signal_is_not_lost(
    command: Callable[[str], None], tmp_path: Path
) -> None:
    """As when a scheduler sends the same signal to all of a job's processes at once."""
    command(ANNOUNCE + "time.sleep(1000)")
    process = launcher(tmp_path, 1)
    rank = int((tmp_path / "0.pid").read_text())
    process.send_signal(signal.SIGSTOP)
    os.kill(rank, signal.SIGTERM)
    wait_for(lambda: Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=60)[1]
    assert said == f"e4t: a rank (process {rank}) was ended by SIGTERM; the same command goes on\n"
    assert process.returncode == 1


def test_a_process_that_nobody_launched_is_not_in_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert not is_distributed_worker()
    monkeypatch.setitem(os.environ, "RANK", "0")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    assert is_distributed_worker()
