"""What is looked at after every step: whether it was skipped, and whether the loss jumped. Read one step late."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from pipelines.errors import RunError

WINDOW, MIN_HISTORY = 128, 32
"""Steps that a jump is told from, and how many of them have to be known."""


class AsyncTensorRead:
    """Numbers that a device is still computing; by the time they are read, the host need not wait for them."""

    def __init__(self, values: Tensor) -> None:
        self._event = torch.cuda.Event() if values.is_cuda else None
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
        self._values.copy_(values.detach(), non_blocking=True)
        if self._event:
            self._event.record()

    def read(self) -> list[float]:
        """Wait if they have not come."""
        if self._event:
            self._event.synchronize()
        return self._values.tolist()


@dataclass(frozen=True)
class StepRecord:
    """What a rank did in a step."""

    number: int
    """Of optimizer steps, this one included."""
    start_index: int
    """Global position of this rank's first picture."""
    keys: Sequence[str]
    """Its pictures."""


@dataclass(frozen=True)
class StepResult:
    """A step, when its numbers have come."""

    step: StepRecord
    losses: list[float]
    """This rank's mean total loss, denoising loss, regulariser."""
    skipped: bool
    """Whether something was not finite on some rank, and nothing was updated."""
    is_spike: bool
    """Whether the loss is far above its recent self."""


class StepMonitor:
    """Judges steps one behind the newest, so that no step waits for the device."""

    def __init__(
        self, max_consecutive_skips: int, loss_spike_factor: float, on_result: Callable[[StepResult], None]
    ) -> None:
        """``tell`` hears of every step; ``skips_allowed`` in a row are the most that a run survives."""
        self.max_consecutive_skips, self.loss_spike_factor, self.on_result = (
            max_consecutive_skips,
            loss_spike_factor,
            on_result,
        )
        self.num_skipped, self._consecutive_skips = 0, 0
        self._recent_losses: deque[float] = deque(maxlen=WINDOW)
        self._pending: deque[tuple[StepRecord, AsyncTensorRead]] = deque()

    def record(self, step: StepRecord, losses: Tensor, skipped: Tensor) -> None:
        """Note a step. Raises RunError if too many were skipped in a row; on every rank at the same step."""
        numbers = torch.cat([losses, skipped.to(losses).view(1)])
        self._pending.append((step, AsyncTensorRead(numbers)))
        while len(self._pending) > 1:
            self._process_oldest()

    def flush(self) -> None:
        """Judge what is left."""
        while self._pending:
            self._process_oldest()

    def _process_oldest(self) -> None:
        step, numbers = self._pending.popleft()
        *losses, flag = numbers.read()
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
                f"{self._consecutive_skips} steps in a row, up to step {step.number}, gave a loss or gradient that is not "
                "finite, and were skipped; lower pretrain.learning_rate, or look at their pictures in logs/rank_*.log"
            )

    def _is_spike(self, loss: float) -> bool:
        if len(self._recent_losses) < MIN_HISTORY:
            return False
        center = median(self._recent_losses)
        mad = median(abs(known - center) for known in self._recent_losses)
        return loss > center + self.loss_spike_factor * max(mad, 1e-3 * abs(center))
