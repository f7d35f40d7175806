"""The supervisor restarts a job like a scheduler."""

from pathlib import Path

import pytest

from benchmarks.faults.hosts import Host
from benchmarks.faults.supervisor import JobError, Supervisor


def supervised(tmp_path: Path, script: str, *, hosts: int = 1, max_starts: int = 5) -> Supervisor:
    host_list = [Host(f"host{number}", f"{tmp_path}-{number}") for number in range(hosts)]
    return Supervisor(host_list, ["sh", "-c", f"cd {tmp_path}; {script}"], tmp_path / "logs" / "log", max_starts)


def test_a_job_that_ends_early_is_restarted(tmp_path: Path) -> None:
    with supervised(tmp_path, "[ -e second ] && exit 0; touch second; exit 75") as supervisor:
        supervisor.finish(20)
    assert supervisor.starts == 2


def test_a_job_with_a_configuration_error_is_not_restarted(tmp_path: Path) -> None:
    with supervised(tmp_path, "echo no such key; exit 78") as supervisor, pytest.raises(JobError, match="no such key"):
        supervisor.finish(20)
    assert supervisor.starts == 1


def test_a_job_that_keeps_ending_early_is_an_error(tmp_path: Path) -> None:
    with (
        supervised(tmp_path, "exit 1", max_starts=2) as supervisor,
        pytest.raises(JobError, match="ended 2 times without finishing"),
    ):
        supervisor.finish(20)


def test_a_job_without_progress_is_an_error_at_the_limit_and_is_killed(tmp_path: Path) -> None:
    with (
        supervised(tmp_path, "echo waiting; sleep 1000") as supervisor,
        pytest.raises(JobError, match=r"no progress for 1 s.*waiting"),
    ):
        supervisor.finish(1)
    assert not supervisor.hosts[0].processes()


def test_nothing_runs_on_a_host_that_is_switched_off(tmp_path: Path) -> None:
    with supervised(tmp_path, "[ -e end ] && exit 0; sleep 1000") as supervisor:
        (host,) = supervisor.hosts
        supervisor.switch_off(host)
        supervisor.wait(1)
        assert not host.processes()
        (tmp_path / "end").touch()
        supervisor.switch_on(host)
        supervisor.finish(20)
    assert supervisor.starts == 2


def test_once_one_host_has_finished_the_others_are_not_restarted(tmp_path: Path) -> None:
    script = "mkdir first && { sleep 1; exit 0; }; exit 1"
    with supervised(tmp_path, script, hosts=2, max_starts=20) as supervisor:
        supervisor.finish(20)
    assert not any(host.processes() for host in supervisor.hosts)
