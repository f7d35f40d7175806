"""What a training run says of itself: mean losses, speed, where the time went, memory."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import Tensor

from pipelines.runtime.device_specs import find_device
from pipelines.runtime.memory import peak_memory_bytes

LOSSES = ("loss", "denoising", "regulariser")


class MetricsAccumulator:
    """Averages over the steps since it was last read. Losses are added on their device: nobody waits for them."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.losses: Tensor | None = None
        self.steps, self.data_wait_seconds, self.start_time = 0, 0.0, time.monotonic()

    @contextmanager
    def data_wait(self) -> Iterator[None]:
        """Around waiting for data."""
        start = time.monotonic()
        yield
        self.data_wait_seconds += time.monotonic() - start

    def add(self, losses: Tensor) -> None:
        """Add a step's losses, (3,) in the order of ``LOSSES``."""
        self.losses = losses if self.losses is None else self.losses + losses
        self.steps += 1

    def read(self) -> list[float]:
        """Mean losses, steps, seconds, seconds that were waited for data, peak bytes; begins anew."""
        means = [0.0] * len(LOSSES) if self.losses is None else (self.losses / self.steps).tolist()
        seconds = time.monotonic() - self.start_time
        numbers = [*means, float(self.steps), seconds, self.data_wait_seconds, float(peak_memory_bytes())]
        self._reset()
        return numbers


def aggregate(per_rank: list[list[float]], batch_size: int, teraflops_per_step: float, device: str) -> dict[str, float]:
    """One line of all ranks' ``Meter.read``: losses are means, the rest is that of the worst rank.

    ``teraflops`` is what one rank computes a step; the share of the device's peak is there if the peak is known.
    """
    columns = list(zip(*per_rank, strict=True))
    *losses, steps, seconds, data_wait, memory = columns
    slowest = max(seconds)
    metrics = {name: sum(values) / len(values) for name, values in zip(LOSSES, losses, strict=True)}
    metrics |= {
        "images_per_second": steps[0] * batch_size / slowest,
        "data_wait_share": max(w / s for w, s in zip(data_wait, seconds, strict=True)),
        "memory_peak_gib": max(memory) / 2**30,
        "teraflops_per_device": steps[0] * teraflops_per_step / slowest,
        "seconds": slowest,
    }
    spec = find_device(device)
    return metrics | ({"mfu": metrics["teraflops_per_device"] / spec.teraflops} if spec and spec.is_gpu else {})


def format_duration(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}:{minutes:02d}:{int(seconds) % 60:02d}" if hours else f"{minutes}:{int(seconds) % 60:02d}"


class SystemMetrics:
    """Cores, memory, disk, network and GPUs of this node, read as often as somebody asks."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.node_name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        self._monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(RuntimeError, ImportError):  # no GPU here
            self._monitors.append(GPUMonitor())
        self.read()  # shares of time begin to count

    def read(self) -> dict[str, float]:
        """``system/<node>/cpu_utilization_percentage`` and the like, since the last reading."""
        metrics: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            metrics |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return {f"system/{self.node_name}/{key}": float(value) for key, value in metrics.items()}
