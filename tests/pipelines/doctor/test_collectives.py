"""Real processes over gloo, and a real engine."""

from pathlib import Path

import pytest

from pipelines.doctor.check import Needs
from pipelines.doctor.checks import CHECKS
from pipelines.doctor.collectives import ranks
from pipelines.doctor.deepspeed import engine
from pipelines.doctor.runner import examine

NEEDS = Needs(runs=Path("runs"), nproc=2)


@pytest.mark.distributed
def test_two_ranks_sum_a_tensor_and_say_how_fast() -> None:
    (found,) = ranks(NEEDS)
    assert found.state == "ok", found
    assert found.found.startswith("2 over ")
    assert "GB/s" in found.found


@pytest.mark.distributed
def test_ranks_that_cannot_meet_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (found,) = ranks(NEEDS)
    assert found.state == "broken"
    assert "do not meet" in found.found
    assert "GLOO_SOCKET_IFNAME" in found.remedy


@pytest.mark.slow
def test_an_engine_steps_and_its_device_is_told() -> None:
    (check,) = (check for check in CHECKS if check.look is engine)
    patient = type(check)(name=check.name, look=engine, seconds=120, remedy="")
    found, compiler = examine([patient], NEEDS)
    assert found.state == "ok", found
    assert "a ZeRO-2 engine steps on" in found.found
    assert compiler.what == "compiler"
