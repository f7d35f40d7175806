"""Schedulers and engines that are here, silent or missing: programs of the tests' own on the path."""

import os
from pathlib import Path

import pytest

from pipelines.doctor import schedulers
from pipelines.doctor.check import JobRequirements
from pipelines.doctor.schedulers import check_containers, check_kubernetes, check_slurm

NEEDS = JobRequirements(runs=Path("runs"), nproc=2)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only these are on the path, each a shell script."""
    monkeypatch.setattr(schedulers.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(**lines: str) -> None:
        for name, line in lines.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / name).chmod(0o755)

    return make


def test_a_machine_without_any_is_fine(programs) -> None:
    assert [look(NEEDS)[0].status for look in (check_slurm, check_kubernetes, check_containers)] == ["ok"] * 3


def test_a_controller_that_is_up_and_one_that_is_not(programs) -> None:
    programs(sbatch="", scontrol="echo 'Slurmctld(primary) at head is UP'")
    assert check_slurm(NEEDS)[0].status == "ok"
    programs(scontrol="echo 'Slurmctld(primary) at head is DOWN'; exit 1")
    (found,) = check_slurm(NEEDS)
    assert (found.status, "is DOWN" in found.detail) == ("note", True)


def test_a_controller_that_hangs_costs_seconds(programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "SECONDS", 0.5)
    programs(sbatch="", scontrol=f"exec {os.defpath.split(':')[-1]}/sleep 60")
    (found,) = check_slurm(NEEDS)
    assert (found.status, "no answer in 0.5 s" in found.detail) == ("note", True)


def test_a_context_whose_cluster_answers_and_none(programs) -> None:
    programs(kubectl='[ "$1" = config ] && echo lab || echo ok')
    assert check_kubernetes(NEEDS)[0].detail == "context lab answers: ok"
    programs(kubectl="echo 'error: current-context is not set' >&2; exit 1")
    assert check_kubernetes(NEEDS)[0].status == "note"


def test_engines_are_named(programs) -> None:
    programs(podman="echo podman version 4.3.1")
    assert check_containers(NEEDS)[0].detail == "podman version 4.3.1"
