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
from pipelines.evaluation.metrics import Metric, build_metrics
from pipelines.evaluation.runner import Comparison

NUM_RESAMPLES, CONFIDENCE_LEVEL = 2000, 0.95
REFERENCE = "the true pictures"


@dataclass(frozen=True)
class Estimate:
    """A mean over concepts, and where it could have been with others (Efron's percentile bootstrap)."""

    mean: float
    low: float
    high: float

    @classmethod
    def from_values(cls, values: Sequence[float]) -> "Estimate":
        """Of one value a concept; equal values give equal intervals."""
        resampled = np.random.default_rng(0).choice(np.asarray(values), (NUM_RESAMPLES, len(values)))
        low, high = np.quantile(resampled.mean(axis=1), [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
        return cls(float(np.mean(values)), float(low), float(high))


@dataclass(frozen=True)
class Row:
    """A system after a number of steps, on all concepts."""

    system: str
    steps: int
    num_images: int
    scores: dict[str, Estimate]
    seconds: Estimate
    peak_gib: float

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        scores = {name: vars(estimate) for name, estimate in self.scores.items()}
        return {**vars(self), "scores": scores, "seconds": vars(self.seconds)}


@dataclass(frozen=True)
class Score:
    """What a system made of one concept after a number of steps."""

    system: System
    steps: int
    concept: str
    values: dict[str, float]
    seconds: float
    peak_gib: float


def compute_scores(comparison: Comparison, on_progress: Callable[[int, int], None] | None = None) -> list[Score]:
    """Measure every result; the last ones are of the true pictures, where they are known."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    metrics, size = build_metrics(comparison.recipe, device), comparison.recipe.data.resolution
    reference_scores = list(_reference_scores(comparison.cases, metrics, size))
    total = len(comparison.systems) * len(comparison.cases)
    scores: list[Score] = []
    for done, (system, case) in enumerate(((s, c) for s in comparison.systems for c in comparison.cases), 1):
        result = comparison.results.load(system, case)
        for steps, images in result.images.items():
            values = _compute_metrics(metrics, case, images, size)
            scores.append(Score(system, steps, case.concept, values, result.seconds[steps], result.peak_gib))
        if on_progress:
            on_progress(done, total)
    return scores + reference_scores


def _reference_scores(cases: Sequence[Case], metrics: Sequence[Metric], size: int) -> Iterator[Score]:
    system = System(name=REFERENCE, method="none")
    for case in cases:
        if case.reference_images:
            values = _compute_metrics(metrics, case, [case.images[0], *case.reference_images], size)
            yield Score(system, 0, case.concept, values, 0.0, 0.0)


def _compute_metrics(
    metrics: Sequence[Metric], case: Case, images: Sequence[Image.Image], size: int
) -> dict[str, float]:
    batch = preprocess_batch(images, size)
    return {name: number for tool in metrics for name, number in tool.compute(case, batch).items()}


def aggregate_scores(scores: Sequence[Score]) -> list[Row]:
    """Estimates over concepts, in the order of the scores."""
    groups: dict[tuple[str, int], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.system.name, score.steps), []).append(score)
    return [_aggregate_group(group) for group in groups.values()]


def _aggregate_group(group: Sequence[Score]) -> Row:
    first = group[0]
    estimates = {name: Estimate.from_values([score.values[name] for score in group]) for name in first.values}
    seconds, peak = Estimate.from_values([score.seconds for score in group]), max(score.peak_gib for score in group)
    return Row(first.system.name, first.steps, first.system.num_images, estimates, seconds, peak)


def write_csv(path: Path, scores: Sequence[Score]) -> None:
    """A line for each concept, system and number of steps."""
    names = list(scores[0].values)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["system", "pictures", "steps", "subject", *names, "seconds", "peak_gib"])
        for score in scores:
            columns = [score.system.name, score.system.num_images, score.steps, score.concept]
            writer.writerow([*columns, *(f"{score.values[name]:.6f}" for name in names), score.seconds, score.peak_gib])
