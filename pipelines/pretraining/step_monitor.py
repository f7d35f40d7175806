"""Detect skipped steps and loss spikes. Results are read one step late, so that the device always has work queued."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from pipelines.errors import RunError

WINDOW, MIN_HISTORY = 128, 32
"""Recent losses that a spike is compared with, and how many of them must be known before a spike is reported."""


class AsyncTensorRead:
    """Non-blocking device-to-host copy of a tensor. ``read`` waits for its CUDA event."""

    def __init__(self, values: Tensor) -> None:
        self._event = torch.cuda.Event() if values.is_cuda else None
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
        self._values.copy_(values.detach(), non_blocking=True)
        if self._event:
            self._event.record()

    def read(self) -> list[float]:
        """Return the values, after waiting until the device has computed and copied them."""
        if self._event:
            self._event.synchronize()
        return self._values.tolist()


@dataclass(frozen=True)
class StepRecord:
    """The part of an optimizer step that one rank computed."""

    number: int
    """Number of the optimizer step, counted from 1."""
    start_index: int
    """Global position in the data stream of this rank's first sample."""
    keys: Sequence[str]
    """Keys of this rank's samples."""


@dataclass(frozen=True)
class StepResult:
    """Outcome of a step on one rank."""

    step: StepRecord
    losses: list[float]
    """Mean total, denoising and regularization loss of this rank's samples."""
    skipped: bool
    """Whether a value was not finite on some rank, so that no rank updated its weights."""
    is_spike: bool
    """Whether the loss is far above the recent ones."""


class StepMonitor:
    """Read the outcome of each step after the next one has been queued.

    Reading step N waits until the device has finished it, while step N + 1 is already queued.
    """

    def __init__(
        self,
        max_consecutive_skips: int,
        loss_spike_factor: float,
        on_result: Callable[[StepResult], None],
        *,
        num_skipped: int = 0,
    ) -> None:
        """Call ``on_result`` for every step. ``num_skipped`` counts skipped steps of earlier attempts of the run."""
        self.max_consecutive_skips, self.loss_spike_factor = max_consecutive_skips, loss_spike_factor
        self.on_result, self.num_skipped, self._consecutive_skips = on_result, num_skipped, 0
        self._recent_losses: deque[float] = deque(maxlen=WINDOW)
        self._pending: deque[tuple[StepRecord, AsyncTensorRead]] = deque()

    def record(self, step: StepRecord, losses: Tensor, skipped: Tensor) -> None:
        """Add a step whose ``losses`` (3,) and ``skipped`` flag (scalar) the device may still be computing.

        Raises RunError after ``max_consecutive_skips`` skipped steps in a row, on every rank at the same step.
        """
        values = torch.cat([losses, skipped.to(losses).view(1)])
        self._pending.append((step, AsyncTensorRead(values)))
        while len(self._pending) > 1:
            self._process_oldest()

    def flush(self) -> None:
        """Wait for the steps that have not been read yet."""
        while self._pending:
            self._process_oldest()

    def _process_oldest(self) -> None:
        step, values = self._pending.popleft()
        *losses, flag = values.read()
        skipped = bool(flag)
        is_spike = not skipped and self._is_spike(losses[0])
        self.on_result(StepResult(step, losses, skipped, is_spike))
        if not skipped:
            self._recent_losses.append(losses[0])
            self._consecutive_skips = 0
            return
        self.num_skipped += 1
        self._consecutive_skips += 1
        if self._consecutive_skips >= self.max_consecutive_skips:
            raise RunError(
                f"{self._consecutive_skips} steps in a row, up to step {step.number}, had a non-finite loss or "
                "gradient and were skipped; lower pretrain.learning_rate, or check the images named in logs/rank_*.log"
            )

    def _is_spike(self, loss: float) -> bool:
        """Whether ``loss`` is more than ``loss_spike_factor`` median absolute deviations above the recent median."""
        if len(self._recent_losses) < MIN_HISTORY:
            return False
        center = median(self._recent_losses)
        mad = median(abs(recent - center) for recent in self._recent_losses)
        return loss > center + self.loss_spike_factor * max(mad, 1e-3 * abs(center))
