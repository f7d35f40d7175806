import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.pretraining.metrics import MetricsAccumulator, aggregate, format_duration

ROOT = Path(__file__).parents[3]
MINE = [1.0, 2.0, 3.0, 10.0, 4.0, 1.0, 2.0**30]
THEIRS = [3.0, 4.0, 5.0, 10.0, 5.0, 0.5, 3 * 2.0**30]
"""Losses, steps, seconds, seconds waited, peak bytes."""


def test_it_averages_the_losses_since_it_was_last_read() -> None:
    meter = MetricsAccumulator()
    meter.add(torch.tensor([9.0, 9.0, 9.0]))
    meter.read()
    meter.add(torch.tensor([1.0, 2.0, 3.0]))
    meter.add(torch.tensor([3.0, 4.0, 5.0]))
    assert meter.read()[:4] == [2.0, 3.0, 4.0, 2.0]


def test_without_a_step_it_reads_nothing() -> None:
    assert MetricsAccumulator().read()[:4] == [0.0, 0.0, 0.0, 0.0]


def test_what_was_waited_for_data_is_part_of_the_time_since_it_was_last_read() -> None:
    meter = MetricsAccumulator()
    with meter.data_wait():
        sum(range(200_000))
    _, _, _, _, seconds, waited, _ = meter.read()
    assert 0 < waited <= seconds
    assert meter.read()[5] == 0


def test_memory_is_the_most_that_was_ever_held() -> None:
    code = """
from pipelines.pretraining.metrics import peak_bytes
before = peak_bytes()
held = bytearray(b"x") * (before + 100_000_000)  # a process begins with the peak of the one that started it
del held
print(peak_bytes() - before)
"""
    command = [sys.executable, "-c", code]
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert int(result.stdout) > 90_000_000


def test_a_line_has_mean_losses_and_otherwise_the_worst_of_the_ranks() -> None:
    line = aggregate([MINE, THEIRS], batch_size=16, teraflops_per_step=2.0, device="")
    assert line == {
        "loss": 2.0,
        "denoising": 3.0,
        "regulariser": 4.0,
        "images_per_second": 32.0,
        "data_wait_share": 0.25,
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
def test_on_a_known_device_the_share_of_its_peak_is_told(device: str, peak: float) -> None:
    line = aggregate([MINE, THEIRS], batch_size=16, teraflops_per_step=2.0, device=device)
    assert line["mfu"] == pytest.approx(4.0 / peak)


@pytest.mark.parametrize("device", ["", "NVIDIA GeForce GTX 1080"])
def test_on_another_device_no_share_is_told(device: str) -> None:
    assert "mfu" not in aggregate([MINE], batch_size=16, teraflops_per_step=2.0, device=device)


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (125, "2:05"), (3723, "1:02:03")])
def test_a_clock_reads_as_people_write_time(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text
