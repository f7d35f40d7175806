"""Metrics are averaged since the last read, and combined over all ranks."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.pretraining.metrics import MetricsAccumulator, aggregate, format_duration

ROOT = Path(__file__).parents[3]
FIRST_RANK = [1.0, 2.0, 3.0, 10.0, 4.0, 1.0, 2.0**30]
SECOND_RANK = [3.0, 4.0, 5.0, 10.0, 5.0, 0.5, 3 * 2.0**30]
"""Three mean losses, steps, seconds, seconds spent waiting for data, peak memory in bytes."""


def test_losses_are_averaged_since_the_last_read() -> None:
    accumulator = MetricsAccumulator()
    accumulator.add(torch.tensor([9.0, 9.0, 9.0]))
    accumulator.read()
    accumulator.add(torch.tensor([1.0, 2.0, 3.0]))
    accumulator.add(torch.tensor([3.0, 4.0, 5.0]))
    assert accumulator.read()[:4] == [2.0, 3.0, 4.0, 2.0]


def test_without_a_step_all_values_are_zero() -> None:
    assert MetricsAccumulator().read()[:4] == [0.0, 0.0, 0.0, 0.0]


def test_the_time_spent_waiting_for_data_is_counted_since_the_last_read() -> None:
    accumulator = MetricsAccumulator()
    with accumulator.data_wait():
        sum(range(200_000))
    _, _, _, _, seconds, waited, _ = accumulator.read()
    assert 0 < waited <= seconds
    assert accumulator.read()[5] == 0


def test_peak_memory_includes_memory_that_was_freed() -> None:
    code = """
from pipelines.runtime.memory import peak_memory_bytes
before = peak_memory_bytes()
allocated = bytearray(b"x") * (before + 100_000_000)
del allocated
print(peak_memory_bytes() - before)
"""
    command = [sys.executable, "-c", code]
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert int(result.stdout) > 90_000_000


def test_losses_are_averaged_over_ranks_and_other_values_are_those_of_the_worst_rank() -> None:
    metrics = aggregate([FIRST_RANK, SECOND_RANK], batch_size=16, teraflops_per_step=2.0, device="")
    assert metrics == {
        "loss": 2.0,
        "denoising": 3.0,
        "regularization": 4.0,
        "images_per_second": 32.0,
        "data_wait_fraction": 0.25,
        "memory_peak_gib": 3.0,
        "teraflops_per_device": 4.0,
        "seconds": 5.0,
    }


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L40", 181.0),
        ("NVIDIA L4", 121.0),
    ],
)
def test_mfu_is_reported_on_a_known_device(device: str, peak: float) -> None:
    metrics = aggregate([FIRST_RANK, SECOND_RANK], batch_size=16, teraflops_per_step=2.0, device=device)
    assert metrics["mfu"] == pytest.approx(4.0 / peak)


@pytest.mark.parametrize("device", ["", "NVIDIA GeForce GTX 1080"])
def test_mfu_is_not_reported_on_an_unknown_device(device: str) -> None:
    assert "mfu" not in aggregate([FIRST_RANK], batch_size=16, teraflops_per_step=2.0, device=device)


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (125, "2:05"), (3723, "1:02:03")])
def test_durations_are_formatted_as_hours_minutes_and_seconds(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text
