"""The check of collectives, with real processes over gloo."""

from pathlib import Path

import pytest

from pipelines.doctor.check import JobRequirements
from pipelines.doctor.collectives import check_collectives

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
