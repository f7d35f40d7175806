"""The checks of collectives (real processes over gloo) and of DeepSpeed (a real engine)."""

from pathlib import Path

import pytest

from pipelines.doctor.check import JobRequirements
from pipelines.doctor.checks import CHECKS
from pipelines.doctor.collectives import check_collectives
from pipelines.doctor.deepspeed import check_deepspeed
from pipelines.doctor.runner import run_checks

NEEDS = JobRequirements(runs=Path("runs"), nproc=2)


@pytest.mark.distributed
def test_two_ranks_all_reduce_and_report_their_speed() -> None:
    (result,) = check_collectives(NEEDS)
    assert result.status == "ok", result
    assert result.detail.startswith("2 ranks over ")
    assert "GB/s" in result.detail


@pytest.mark.distributed
def test_ranks_that_cannot_communicate_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (result,) = check_collectives(NEEDS)
    assert result.status == "fail"
    assert "cannot communicate" in result.detail
    assert "GLOO_SOCKET_IFNAME" in result.remedy


def test_an_engine_takes_a_step_and_its_accelerator_is_reported() -> None:
    (check,) = (check for check in CHECKS if check.run is check_deepspeed)
    extended = type(check)(name=check.name, run=check_deepspeed, timeout_seconds=120, remedy="")
    result, compiler = run_checks([extended], NEEDS)
    assert result.status == "ok", result
    assert "a ZeRO-2 engine takes a step on" in result.detail
    assert compiler.name == "compiler"
