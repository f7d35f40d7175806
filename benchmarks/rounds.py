"""Timing side by side: every contender once a round, in turn, ratios taken round by round."""

import statistics
import time
from collections.abc import Callable, Mapping


def race(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round; in every second round backwards: a machine that slows down does so for all."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders) if number % 2 == 0 else reversed(list(contenders)):
            began = time.perf_counter()
            contenders[name]()
            found[name].append(time.perf_counter() - began)
    return found


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Median, least and most of the rounds' ratios."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def told(figures: Mapping[str, float]) -> str:
    """``12.3 (11.0-13.1)``."""
    return f"{figures['median']:.2f} ({figures['least']:.2f}-{figures['most']:.2f})"
