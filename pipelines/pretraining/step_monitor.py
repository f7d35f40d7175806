"""What is looked at after every step: whether it was skipped, and whether the loss jumped. Read one step late."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from pipelines.errors import RunError

HISTORY, ENOUGH = 128, 32
"""Steps that a jump is told from, and how many of them have to be known."""


class OnItsWay:
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
class Step:
    """What a rank did in a step."""

    number: int
    """Of optimizer steps, this one included."""
    start: int
    """Global position of this rank's first picture."""
    keys: Sequence[str]
    """Its pictures."""


@dataclass(frozen=True)
class Judged:
    """A step, when its numbers have come."""

    step: Step
    losses: list[float]
    """This rank's mean total loss, denoising loss, regulariser."""
    skipped: bool
    """Whether something was not finite on some rank, and nothing was updated."""
    jumped: bool
    """Whether the loss is far above its recent self."""


class Guard:
    """Judges steps one behind the newest, so that no step waits for the device."""

    def __init__(self, skips_allowed: int, spike_factor: float, tell: Callable[[Judged], None]) -> None:
        """``tell`` hears of every step; ``skips_allowed`` in a row are the most that a run survives."""
        self.skips_allowed, self.spike_factor, self.tell = skips_allowed, spike_factor, tell
        self.skipped, self._in_a_row = 0, 0
        self._recent: deque[float] = deque(maxlen=HISTORY)
        self._waiting: deque[tuple[Step, OnItsWay]] = deque()

    def after(self, step: Step, losses: Tensor, skipped: Tensor) -> None:
        """Note a step. Raises RunError if too many were skipped in a row; on every rank at the same step."""
        numbers = torch.cat([losses, skipped.to(losses).view(1)])
        self._waiting.append((step, OnItsWay(numbers)))
        while len(self._waiting) > 1:
            self._judge()

    def flush(self) -> None:
        """Judge what is left."""
        while self._waiting:
            self._judge()

    def _judge(self) -> None:
        step, numbers = self._waiting.popleft()
        *losses, flag = numbers.read()
        skipped = bool(flag)
        jumped = not skipped and self._is_jump(losses[0])
        self.tell(Judged(step, losses, skipped, jumped))
        if not skipped:
            self._recent.append(losses[0])
            self._in_a_row = 0
            return
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= self.skips_allowed:
            raise RunError(
                f"{self._in_a_row} steps in a row, up to step {step.number}, gave a loss or gradient that is not "
                "finite, and were skipped; lower pretrain.learning_rate, or look at their pictures in logs/rank_*.log"
            )

    def _is_jump(self, loss: float) -> bool:
        if len(self._recent) < ENOUGH:
            return False
        middle = median(self._recent)
        spread = median(abs(known - middle) for known in self._recent)
        return loss > middle + self.spike_factor * max(spread, 1e-3 * abs(middle))
