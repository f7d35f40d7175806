"""Compute scores of all results and aggregate them over concepts, with bootstrap confidence intervals."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from encoder.images import preprocess_batch
from encoder.releases.release import Release
from pipelines.config.evaluation import BASE, System
from pipelines.evaluation.cases import Case
from pipelines.evaluation.metrics import Metric, build_metrics
from pipelines.evaluation.report import REFERENCE, SCORES_FILE, Estimate, EvaluatedRelease, Report, Row
from pipelines.evaluation.runner import Comparison
from pipelines.tracking.environment import environment

NUM_RESAMPLES, CONFIDENCE_LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Score:
    """Metric values of one system on one concept after a number of tuning steps."""

    system: System
    steps: int
    concept: str
    values: dict[str, float]
    seconds: float
    peak_gib: float


def build_report(comparison: Comparison, on_progress: Callable[[int, int], None] | None = None) -> Report:
    """Score all results, aggregate over concepts, and write report.json, scores.csv and table.md."""
    scores = compute_scores(comparison, on_progress)
    releases = {system.init: Release.open(system.init) for system in comparison.systems if system.init != BASE}
    report = Report(
        recipe=comparison.recipe.to_dict(),
        releases={
            init: EvaluatedRelease(release.id, release.content_digest) for init, release in sorted(releases.items())
        },
        environment=environment(),
        concepts={case.concept: list(case.prompts) for case in comparison.cases},
        rows=aggregate_scores(scores),
    )
    report.save(comparison.output)
    write_csv(comparison.output / SCORES_FILE, scores)
    return report


def compute_scores(comparison: Comparison, on_progress: Callable[[int, int], None] | None = None) -> list[Score]:
    """Score every result; the last scores are those of the reference images of concepts that have some.

    ``on_progress`` receives the number of scored results and their total.
    """
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
    return {name: value for metric in metrics for name, value in metric.compute(case, batch).items()}


def aggregate_scores(scores: Sequence[Score]) -> list[Row]:
    """Aggregate over concepts: one row for each system and number of steps, in the order of the scores."""
    groups: dict[tuple[str, int], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.system.name, score.steps), []).append(score)
    return [_aggregate_group(group) for group in groups.values()]


def _aggregate_group(group: Sequence[Score]) -> Row:
    first = group[0]
    estimates = {name: bootstrap([score.values[name] for score in group]) for name in first.values}
    seconds, peak = bootstrap([score.seconds for score in group]), max(score.peak_gib for score in group)
    return Row(first.system.name, first.steps, first.system.num_images, estimates, seconds, peak)


def bootstrap(values: Sequence[float]) -> Estimate:
    """Return the mean with Efron's percentile bootstrap interval; equal values give equal intervals."""
    resampled = np.random.default_rng(0).choice(np.asarray(values), (NUM_RESAMPLES, len(values)))
    low, high = np.quantile(resampled.mean(axis=1), [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return Estimate(float(np.mean(values)), float(low), float(high))


def write_csv(path: Path, scores: Sequence[Score]) -> None:
    """Write one line for each concept, system and number of steps."""
    names = list(scores[0].values)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["system", "num_images", "steps", "concept", *names, "seconds", "peak_gib"])
        for score in scores:
            columns = [score.system.name, score.system.num_images, score.steps, score.concept]
            writer.writerow([*columns, *(f"{score.values[name]:.6f}" for name in names), score.seconds, score.peak_gib])
