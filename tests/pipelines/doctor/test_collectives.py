"""Real processes over gloo, and a real engine."""

from pathlib import Path

import pytest

from pipelines.doctor.check import JobRequirements
from pipelines.doctor.checks import CHECKS
from pipelines.doctor.collectives import check_collectives
from pipelines.doctor.deepspeed import check_deepspeed
from pipelines.doctor.runner import run_checks

NEEDS = JobRequirements(runs=Path("runs"), nproc=2)


@pytest.mark.distributed
def test_two_ranks_sum_a_tensor_and_say_how_fast() -> None:
    (found,) = check_collectives(NEEDS)
    assert found.status == "ok", found
    assert found.detail.startswith("2 over ")
    assert "GB/s" in found.detail


@pytest.mark.distributed
def test_ranks_that_cannot_meet_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (found,) = check_collectives(NEEDS)
    assert found.status == "broken"
    assert "do not meet" in found.detail
    assert "GLOO_SOCKET_IFNAME" in found.remedy


@pytest.mark.slow
def test_an_engine_steps_and_its_device_is_told() -> None:
    (check,) = (check for check in CHECKS if check.run is check_deepspeed)
    patient = type(check)(name=check.name, run=check_deepspeed, timeout_seconds=120, remedy="")
    found, compiler = run_checks([patient], NEEDS)
    assert found.status == "ok", found
    assert "a ZeRO-2 engine steps on" in found.detail
    assert compiler.name == "compiler"
