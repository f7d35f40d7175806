"""Numbers over concepts: means with bootstrap intervals, for each system after each number of steps."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from encoder.images import preprocess_batch
from pipelines.config.evaluation import System
from pipelines.evaluation.cases import Case
from pipelines.evaluation.metrics import Instrument, instruments
from pipelines.evaluation.runner import Comparison

RESAMPLES, COVERAGE = 2000, 0.95
TRUTH = "the true pictures"


@dataclass(frozen=True)
class Estimate:
    """A mean over concepts, and where it could have been with others (Efron's percentile bootstrap)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Of one value a concept; equal values give equal intervals."""
        drawn = np.random.default_rng(0).choice(np.asarray(values), (RESAMPLES, len(values)))
        low, high = np.quantile(drawn.mean(axis=1), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        return cls(float(np.mean(values)), float(low), float(high))


@dataclass(frozen=True)
class Row:
    """A system after a number of steps, on all concepts."""

    system: str
    steps: int
    pictures: int
    scores: dict[str, Estimate]
    seconds: Estimate
    peak_gib: float

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        scores = {name: vars(estimate) for name, estimate in self.scores.items()}
        return {**vars(self), "scores": scores, "seconds": vars(self.seconds)}


@dataclass(frozen=True)
class Score:
    """What a system made of one concept after a number of steps."""

    system: System
    steps: int
    concept: str
    numbers: dict[str, float]
    seconds: float
    peak_gib: float


def scores(comparison: Comparison, on_done: Callable[[int, int], None] | None = None) -> list[Score]:
    """Measure every result; the last ones are of the true pictures, where they are known."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tools, size = instruments(comparison.recipe, device), comparison.recipe.data.resolution
    found = list(_truths(comparison.cases, tools, size))
    total = len(comparison.systems) * len(comparison.cases)
    measured: list[Score] = []
    for done, (system, case) in enumerate(((s, c) for s in comparison.systems for c in comparison.cases), 1):
        result = comparison.results.load(system, case)
        for steps, images in result.pictures.items():
            numbers = _measured(tools, case, images, size)
            measured.append(Score(system, steps, case.concept, numbers, result.seconds[steps], result.peak_gib))
        if on_done:
            on_done(done, total)
    return measured + found


def _truths(cases: Sequence[Case], tools: Sequence[Instrument], size: int) -> Iterator[Score]:
    system = System(name=TRUTH, method="none")
    for case in cases:
        if case.truths:
            numbers = _measured(tools, case, [case.pictures[0], *case.truths], size)
            yield Score(system, 0, case.concept, numbers, 0.0, 0.0)


def _measured(tools: Sequence[Instrument], case: Case, images: Sequence[Image.Image], size: int) -> dict[str, float]:
    made = preprocess_batch(images, size)
    return {name: number for tool in tools for name, number in tool.measure(case, made).items()}


def rows(measured: Sequence[Score]) -> list[Row]:
    """Estimates over concepts, in the order of the scores."""
    groups: dict[tuple[str, int], list[Score]] = {}
    for score in measured:
        groups.setdefault((score.system.name, score.steps), []).append(score)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Score]) -> Row:
    first = group[0]
    estimates = {name: Estimate.of([score.numbers[name] for score in group]) for name in first.numbers}
    seconds, peak = Estimate.of([score.seconds for score in group]), max(score.peak_gib for score in group)
    return Row(first.system.name, first.steps, first.system.pictures, estimates, seconds, peak)


def write_csv(path: Path, measured: Sequence[Score]) -> None:
    """A line for each concept, system and number of steps."""
    names = list(measured[0].numbers)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["system", "pictures", "steps", "subject", *names, "seconds", "peak_gib"])
        for score in measured:
            facts = [score.system.name, score.system.pictures, score.steps, score.concept]
            writer.writerow([*facts, *(f"{score.numbers[name]:.6f}" for name in names), score.seconds, score.peak_gib])
