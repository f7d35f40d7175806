"""How busy a node is, by MLflow's own monitors and under the names that its pages show."""

import os
import socket
from contextlib import suppress


class NodeMeter:
    """Cores, memory, disk, network and GPUs of this node, read as often as somebody asks."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        self._monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(RuntimeError, ImportError):  # no GPU here
            self._monitors.append(GPUMonitor())
        self.read()  # shares of time begin to count

    def read(self) -> dict[str, float]:
        """``system/<node>/cpu_utilization_percentage`` and the like, since the last reading."""
        found: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            found |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return {f"system/{self.name}/{key}": float(value) for key, value in found.items()}
