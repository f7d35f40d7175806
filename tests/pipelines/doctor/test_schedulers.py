"""Schedulers and engines that are here, silent or missing: programs of the tests' own on the path."""

import os
from pathlib import Path

import pytest

from pipelines.doctor import schedulers
from pipelines.doctor.check import Needs
from pipelines.doctor.schedulers import containers, kubernetes, slurm

NEEDS = Needs(runs=Path("runs"), nproc=2)


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
    assert [look(NEEDS)[0].state for look in (slurm, kubernetes, containers)] == ["ok"] * 3


def test_a_controller_that_is_up_and_one_that_is_not(programs) -> None:
    programs(sbatch="", scontrol="echo 'Slurmctld(primary) at head is UP'")
    assert slurm(NEEDS)[0].state == "ok"
    programs(scontrol="echo 'Slurmctld(primary) at head is DOWN'; exit 1")
    (found,) = slurm(NEEDS)
    assert (found.state, "is DOWN" in found.found) == ("note", True)


def test_a_controller_that_hangs_costs_seconds(programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "SECONDS", 0.5)
    programs(sbatch="", scontrol=f"exec {os.defpath.split(':')[-1]}/sleep 60")
    (found,) = slurm(NEEDS)
    assert (found.state, "no answer in 0.5 s" in found.found) == ("note", True)


def test_a_context_whose_cluster_answers_and_none(programs) -> None:
    programs(kubectl='[ "$1" = config ] && echo lab || echo ok')
    assert kubernetes(NEEDS)[0].found == "context lab answers: ok"
    programs(kubectl="echo 'error: current-context is not set' >&2; exit 1")
    assert kubernetes(NEEDS)[0].state == "note"


def test_engines_are_named(programs) -> None:
    programs(podman="echo podman version 4.3.1")
    assert containers(NEEDS)[0].found == "podman version 4.3.1"
