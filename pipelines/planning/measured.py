"""How right former plans were."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A prediction of memory and what was then measured, as a benchmark gave them."""

    stage: str
    device: str
    setting: str
    predicted_gib: float
    measured_gib: float

    @property
    def error(self) -> float:
        """Relative; above 0 if less was needed than was predicted."""
        return self.predicted_gib / self.measured_gib - 1


@cache
def measurements() -> tuple[Measured, ...]:
    """All that are kept."""
    rows = yaml.safe_load(Path(__file__).with_name("measured.yaml").read_text())
    return tuple(Measured(**row) for row in rows)


def record(stage: str, device: str) -> str:
    """Former predictions of such a plan in a few words."""
    errors = [each.error for each in measurements() if (each.stage, each.device) == (stage, device)]
    if not errors:
        return "never measured on this kind of device"
    return f"{len(errors)} former predictions were off by {min(errors):+.0%} to {max(errors):+.0%}"
