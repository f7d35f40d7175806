"""SystemMetrics reads the load of a node with MLflow's monitors."""

import os
import socket

import pytest

from pipelines.pretraining.metrics import SystemMetrics


def test_values_have_the_names_that_the_mlflow_ui_shows() -> None:
    metrics = SystemMetrics()
    values = metrics.read()
    node = f"system/{socket.gethostname()}"
    names = {
        "cpu_utilization_percentage",
        "system_memory_usage_percentage",
        "disk_usage_percentage",
        "network_receive_megabytes",
    }
    assert {f"{node}/{name}" for name in names} <= values.keys()
    assert all(isinstance(value, float) for value in values.values())
    assert 0 < values[f"{node}/system_memory_usage_percentage"] <= 100


def test_utilization_is_measured_since_the_last_read() -> None:
    metrics = SystemMetrics()
    start = os.times().user
    while os.times().user < start + 0.3:
        pass
    key = f"system/{metrics.node_name}/cpu_utilization_percentage"
    assert metrics.read()[key] > 0


def test_the_slurm_node_name_is_preferred_to_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    assert "system/node7/cpu_utilization_percentage" in SystemMetrics().read()
