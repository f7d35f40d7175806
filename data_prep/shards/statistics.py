"""Statistics of image properties that can be summed over shards."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Moments:
    """Count, sum, sum of squares and range of a set of values."""

    count: int = 0
    total: float = 0.0
    sum_of_squares: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.sum_of_squares + other.sum_of_squares,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )

    @classmethod
    def from_value(cls, value: float) -> "Moments":
        """Return the moments of a single value."""
        return cls(1, value, value * value, value, value)

    def summary(self) -> dict[str, float]:
        """Return mean, population standard deviation, minimum and maximum."""
        mean = self.total / self.count
        std = math.sqrt(max(0.0, self.sum_of_squares / self.count - mean * mean))
        return {"mean": mean, "std": std, "min": self.minimum, "max": self.maximum}


Statistics = dict[str, Moments]
"""Moments by the name of the quantity, such as ``width``."""


def compute_statistics(rows: Iterable[Mapping[str, float]]) -> Statistics:
    """Compute statistics over images; each row maps names to values."""
    return merge_statistics({name: Moments.from_value(value) for name, value in row.items()} for row in rows)


def merge_statistics(many: Iterable[Mapping[str, Moments]]) -> Statistics:
    """Sum statistics in the given order, so that the floating-point result is reproducible."""
    total: Statistics = {}
    for one in many:
        for name, moments in one.items():
            total[name] = total.get(name, Moments()) + moments
    return total
