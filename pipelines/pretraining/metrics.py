"""What a training run says of itself: mean losses, speed, where the time went, memory."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import Tensor

from pipelines.runtime.device_specs import device_named
from pipelines.runtime.memory import peak_bytes

LOSSES = ("loss", "denoising", "regulariser")


class Meter:
    """Averages over the steps since it was last read. Losses are added on their device: nobody waits for them."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.losses: Tensor | None = None
        self.steps, self.waited, self.since = 0, 0.0, time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for data."""
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    def add(self, losses: Tensor) -> None:
        """Add a step's losses, (3,) in the order of ``LOSSES``."""
        self.losses = losses if self.losses is None else self.losses + losses
        self.steps += 1

    def read(self) -> list[float]:
        """Mean losses, steps, seconds, seconds that were waited for data, peak bytes; begins anew."""
        means = [0.0] * len(LOSSES) if self.losses is None else (self.losses / self.steps).tolist()
        seconds = time.monotonic() - self.since
        numbers = [*means, float(self.steps), seconds, self.waited, float(peak_bytes())]
        self._start()
        return numbers


def summarise(ranks: list[list[float]], batch_size: int, teraflops: float, device: str) -> dict[str, float]:
    """One line of all ranks' ``Meter.read``: losses are means, the rest is that of the worst rank.

    ``teraflops`` is what one rank computes a step; the share of the device's peak is there if the peak is known.
    """
    columns = list(zip(*ranks, strict=True))
    *losses, steps, seconds, waited, memory = columns
    slowest = max(seconds)
    line = {name: sum(values) / len(values) for name, values in zip(LOSSES, losses, strict=True)}
    line |= {
        "images_per_second": steps[0] * batch_size / slowest,
        "data_wait_share": max(w / s for w, s in zip(waited, seconds, strict=True)),
        "memory_peak_gib": max(memory) / 2**30,
        "teraflops_per_device": steps[0] * teraflops / slowest,
        "seconds": slowest,
    }
    known = device_named(device)
    return line | ({"mfu": line["teraflops_per_device"] / known.teraflops} if known and known.is_gpu else {})


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}:{minutes:02d}:{int(seconds) % 60:02d}" if hours else f"{minutes}:{int(seconds) % 60:02d}"


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
