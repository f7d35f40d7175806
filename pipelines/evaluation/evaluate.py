"""``e4t evaluate``: held-out concepts by a release, beside the base as it is and the same tuning from nothing."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.evaluation.mlflow_log import record
from pipelines.evaluation.report import Report, make_report
from pipelines.evaluation.runner import Comparison, work_here
from pipelines.evaluation.statistics import scores
from pipelines.runtime.image_grid import labelled_grid
from pipelines.tracking.stage_runs import look_label, tracked

GRID = "grid.png"


def evaluate(recipe: Recipe, release: Path, output: Path, on_done: Callable[[int, int], None] | None = None) -> Report:
    """Personalise held-out concepts; write report.json, scores.csv, table.md and grid.png, and tell MLflow.

    What an earlier call has made of the same recipe and release is kept. The numbers depend on neither the number of
    processes nor interruptions.
    """
    opened = Release.open(release)
    with tracked(recipe, "evaluate", look_label("evaluate", opened.content_digest)) as tracker:
        comparison = Comparison(recipe, recipe.evaluate.systems, release, output)
        work_here(comparison, on_done)
        report = make_report(comparison, scores(comparison))
        grid(comparison).save(output / GRID)
        record(tracker, report, opened, "evaluate", [GRID])
    return report


def grid(comparison: Comparison) -> Image.Image:
    """For some concepts: the one picture, the base, before and after tuning, the edits and what they should be."""
    base, tuned, _ = comparison.systems
    edits = range(len(comparison.cases[0].edits))
    labels = ["the one picture", "base, from\nits caption"]
    labels += ["before tuning" if steps == 0 else f"after {steps} steps" for steps in tuned.steps]
    labels += [f"edit {edit + 1}" for edit in edits]
    labels += [f"true edit {edit + 1}" for edit in edits] if comparison.cases[0].truths else []
    rows = []
    for case in comparison.cases[: comparison.recipe.evaluate.shown]:
        made = comparison.results.load(tuned, case).pictures
        plain = comparison.results.load(base, case).pictures[0][0]
        reconstructed = [made[steps][0] for steps in tuned.steps]
        rows.append([case.pictures[0], plain, *reconstructed, *made[tuned.steps[-1]][1:], *case.truths])
    return labelled_grid(rows, labels)
