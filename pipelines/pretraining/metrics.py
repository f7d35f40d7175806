"""Metrics of a training run: mean losses, throughput, time spent waiting for data, memory, load of the node."""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pipelines.config.pretraining import PretrainConfig
from pipelines.pretraining.run_folder import Run
from pipelines.pretraining.step_monitor import StepResult
from pipelines.runtime.device_specs import find_device
from pipelines.runtime.memory import peak_memory_bytes
from pipelines.runtime.process_group import ProcessGroup
from pipelines.tracking.tracker import Tracker

log = logging.getLogger("e4t")
LOSSES = ("loss", "denoising", "regularization")


class MetricsAccumulator:
    """Average the metrics of the steps since the last ``read``.

    Losses are summed on their device without synchronizing; ``read`` waits for the device.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.losses: Tensor | None = None
        self.steps, self.data_wait_seconds, self.start_time = 0, 0.0, time.monotonic()

    @contextmanager
    def data_wait(self) -> Iterator[None]:
        """Count the time of the ``with`` block as time spent waiting for data."""
        start = time.monotonic()
        yield
        self.data_wait_seconds += time.monotonic() - start

    def add(self, losses: Tensor) -> None:
        """Add the losses (3,) of a step, in the order of ``LOSSES``."""
        self.losses = losses if self.losses is None else self.losses + losses
        self.steps += 1

    def read(self) -> list[float]:
        """Return mean losses, steps, seconds, seconds spent waiting for data and peak memory in bytes, and reset."""
        means = [0.0] * len(LOSSES) if self.losses is None else (self.losses / self.steps).tolist()
        seconds = time.monotonic() - self.start_time
        values = [*means, float(self.steps), seconds, self.data_wait_seconds, float(peak_memory_bytes())]
        self._reset()
        return values


class MetricsLogger:
    """Write metrics to metrics.jsonl, to the terminal and to MLflow."""

    def __init__(
        self,
        config: PretrainConfig,
        process_group: ProcessGroup,
        run: Run,
        tracker: Tracker | None,
        *,
        teraflops_per_step: float,
    ) -> None:
        """``tracker`` is None except on rank 0. ``teraflops_per_step`` is the work of one rank; 0 if it is unknown."""
        self.config, self.process_group, self.run, self.tracker = config, process_group, run, tracker
        self.teraflops_per_step = teraflops_per_step
        self.accumulator = MetricsAccumulator()
        self.system_metrics = SystemMetrics() if process_group.accelerator.is_local_main_process else None

    def log_training(self, step: int, optimizer_metrics: dict[str, float]) -> float:
        """Log the mean over all ranks and over the steps since the last call. Every rank must call this.

        Waits for the device and for the other ranks. ``optimizer_metrics`` are added as they are, those of rank 0
        count. Returns the seconds that the steps took.
        """
        gathered = self.process_group.all_gather_object(
            (self.accumulator.read(), self.system_metrics.read() if self.system_metrics else {})
        )
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        metrics = aggregate(
            [values for values, _ in gathered], self.config.global_batch_size, self.teraflops_per_step, device
        )
        seconds = metrics.pop("seconds")
        metrics |= optimizer_metrics
        if self.tracker:
            steps_left, max_steps = self.config.max_steps - step, self.config.max_steps
            eta = format_duration(steps_left * self.config.global_batch_size / metrics["images_per_second"])
            text = "step %d/%d  loss %.4f  %.1f images/s  ETA %s"
            log.info(text, step, max_steps, metrics["loss"], metrics["images_per_second"], eta)
            self.run.log_metrics(step=step, **metrics)
            system = {key: value for _, node in gathered for key, value in node.items()}
            self.tracker.log_metrics(step, metrics | system)
        return seconds

    def log_validation(self, step: int, loss: float, grid: Image.Image) -> None:
        """Log the validation loss, and save the image grid as ``samples/step_<step>.png``. Only on rank 0."""
        path = self.run.folder / "samples" / f"step_{step:08d}.png"
        grid.save(path)
        log.info("step %d  validation loss %.4f  samples %s", step, loss, path)
        self.run.log_metrics(step=step, validation_loss=loss)
        if self.tracker:
            self.tracker.log_metrics(step, {"validation_loss": loss})
            self.tracker.log_artifact(path, "samples")

    def log_checkpoints(self, checkpoints: Sequence[Path]) -> None:
        """Set the paths of the complete checkpoints as a tag of the MLflow run."""
        if self.tracker:
            self.tracker.set_tags({"e4t.checkpoints": "\n".join(str(path) for path in checkpoints)})


def log_step_result(run: Run, attempt_id: str, result: StepResult) -> None:
    """Append a step to this rank's ``logs/rank_<N>.jsonl``, and warn if it was skipped or its loss is a spike."""
    step = result.step
    run.log_step(
        step=step.number, start=step.start_index, count=len(step.keys), attempt=attempt_id,
        loss=result.losses[0], skipped=result.skipped,
    )  # fmt: skip
    if result.skipped or result.is_spike:
        problem = "non-finite loss or gradient: step skipped" if result.skipped else "loss spike"
        log.warning("step %d: %s (loss %.4g, images %s)", step.number, problem, result.losses[0], list(step.keys))
        run.log_metrics(step=step.number, skipped=int(result.skipped), loss_spike=int(result.is_spike))


def aggregate(per_rank: list[list[float]], batch_size: int, teraflops_per_step: float, device: str) -> dict[str, float]:
    """Combine ``MetricsAccumulator.read`` of all ranks: losses are averaged, other values are those of the worst rank.

    ``teraflops_per_step`` is the work of one rank. Model FLOPs utilization (``mfu``) is included if the peak of
    ``device``, a name as CUDA reports it, is known.
    """
    columns = list(zip(*per_rank, strict=True))
    *losses, steps, seconds, data_wait, memory = columns
    slowest = max(seconds)
    metrics = {name: sum(values) / len(values) for name, values in zip(LOSSES, losses, strict=True)}
    metrics |= {
        "images_per_second": steps[0] * batch_size / slowest,
        "data_wait_fraction": max(w / s for w, s in zip(data_wait, seconds, strict=True)),
        "memory_peak_gib": max(memory) / 2**30,
        "teraflops_per_device": steps[0] * teraflops_per_step / slowest,
        "seconds": slowest,
    }
    spec = find_device(device)
    return metrics | ({"mfu": metrics["teraflops_per_device"] / spec.teraflops} if spec and spec.is_gpu else {})


def format_duration(seconds: float) -> str:
    """Format a duration as ``1:02:03``, or as ``2:03`` below one hour."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}:{minutes:02d}:{int(seconds) % 60:02d}" if hours else f"{minutes}:{int(seconds) % 60:02d}"


class SystemMetrics:
    """CPU, memory, disk, network and GPU load of this node, measured by MLflow's monitors."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.node_name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        self._monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(RuntimeError, ImportError):  # no GPU or no NVML
            self._monitors.append(GPUMonitor())
        self.read()  # utilization is measured from here on

    def read(self) -> dict[str, float]:
        """Return metrics such as ``system/<node>/cpu_utilization_percentage`` since the last call."""
        metrics: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            metrics |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return {f"system/{self.node_name}/{key}": float(value) for key, value in metrics.items()}
