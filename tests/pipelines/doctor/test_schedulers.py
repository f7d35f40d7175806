"""Schedulers and container engines that respond, hang or are missing, played by shell scripts on PATH."""

import os
from pathlib import Path

import pytest

from pipelines.doctor import schedulers
from pipelines.doctor.check import JobRequirements
from pipelines.doctor.schedulers import check_containers, check_kubernetes, check_slurm

NEEDS = JobRequirements(runs=Path("runs"), nproc=2)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Create shell scripts that are the only programs on PATH."""
    monkeypatch.setattr(schedulers.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(**lines: str) -> None:
        for name, line in lines.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / name).chmod(0o755)

    return make


def test_a_machine_without_schedulers_passes(programs) -> None:
    assert [look(NEEDS)[0].status for look in (check_slurm, check_kubernetes, check_containers)] == ["ok"] * 3


def test_the_slurm_controller_is_reported_up_or_down(programs) -> None:
    programs(sbatch="", scontrol="echo 'Slurmctld(primary) at head is UP'")
    assert check_slurm(NEEDS)[0].status == "ok"
    programs(scontrol="echo 'Slurmctld(primary) at head is DOWN'; exit 1")
    (result,) = check_slurm(NEEDS)
    assert (result.status, "is DOWN" in result.detail) == ("warn", True)


def test_a_hanging_slurm_controller_times_out(programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "TIMEOUT_SECONDS", 0.5)
    programs(sbatch="", scontrol=f"exec {os.defpath.split(':')[-1]}/sleep 60")
    (result,) = check_slurm(NEEDS)
    assert (result.status, "timed out after 0.5 s" in result.detail) == ("warn", True)


def test_the_kubernetes_context_is_reported_or_missing(programs) -> None:
    programs(kubectl='[ "$1" = config ] && echo lab || echo ok')
    assert check_kubernetes(NEEDS)[0].detail == "context lab responds: ok"
    programs(kubectl="echo 'error: current-context is not set' >&2; exit 1")
    assert check_kubernetes(NEEDS)[0].status == "warn"


def test_container_engines_are_named(programs) -> None:
    programs(podman="echo podman version 4.3.1")
    assert check_containers(NEEDS)[0].detail == "podman version 4.3.1"
