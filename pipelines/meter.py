"""What a training run says of itself: mean losses, speed, time left."""

import time

import torch
from torch import Tensor

LOSSES = ("loss", "denoising", "regulariser")


class Meter:
    """Averages over the steps since it was last read."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.sums, self.steps, self.since = torch.zeros(len(LOSSES)), 0, time.monotonic()

    def add(self, losses: Tensor) -> None:
        """Add a step's losses, (3,) in the order of ``LOSSES``."""
        self.sums += losses
        self.steps += 1

    def read(self, batch_size: int) -> dict[str, float]:
        """Mean losses and pictures a second; begins anew."""
        seconds = time.monotonic() - self.since
        values = dict(zip(LOSSES, (self.sums / self.steps).tolist(), strict=True))
        values |= {"images_per_second": self.steps * batch_size / seconds, "seconds": seconds}
        self._start()
        return values


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}:{minutes:02d}:{int(seconds) % 60:02d}" if hours else f"{minutes}:{int(seconds) % 60:02d}"
