"""How busy a node is, by MLflow's own monitors."""

import os
import socket

import pytest

from pipelines.pretraining.metrics import SystemMetrics


def test_a_reading_is_numbers_under_the_names_that_mlflows_pages_show() -> None:
    meter = SystemMetrics()
    found = meter.read()
    node = f"system/{socket.gethostname()}"
    names = {
        "cpu_utilization_percentage",
        "system_memory_usage_percentage",
        "disk_usage_percentage",
        "network_receive_megabytes",
    }
    assert {f"{node}/{name}" for name in names} <= found.keys()
    assert all(isinstance(value, float) for value in found.values())
    assert 0 < found[f"{node}/system_memory_usage_percentage"] <= 100


def test_what_was_read_is_of_the_time_since_the_last_reading() -> None:
    meter = SystemMetrics()
    busy = os.times().user
    while os.times().user < busy + 0.3:
        pass
    key = f"system/{meter.node_name}/cpu_utilization_percentage"
    assert meter.read()[key] > 0


def test_slurms_name_of_the_node_counts_before_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    assert "system/node7/cpu_utilization_percentage" in SystemMetrics().read()
