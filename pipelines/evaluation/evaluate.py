"""``e4t evaluate``: held-out concepts by a release, beside the base as it is and the same tuning from nothing."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.evaluation.mlflow_log import log_evaluation
from pipelines.evaluation.report import Report, make_report
from pipelines.evaluation.runner import Comparison, run_local
from pipelines.evaluation.statistics import compute_scores
from pipelines.runtime.image_grid import labeled_grid
from pipelines.tracking.stage_runs import evaluation_label, stage_run

GRID = "grid.png"


def evaluate(
    recipe: Recipe, release: Path, output: Path, on_progress: Callable[[int, int], None] | None = None
) -> Report:
    """Personalise held-out concepts; write report.json, scores.csv, table.md and grid.png, and tell MLflow.

    What an earlier call has made of the same recipe and release is kept. The numbers depend on neither the number of
    processes nor interruptions.
    """
    loaded_release = Release.open(release)
    with stage_run(recipe, "evaluate", evaluation_label("evaluate", loaded_release.content_digest)) as tracker:
        comparison = Comparison(recipe, recipe.evaluate.systems, release, output)
        run_local(comparison, on_progress)
        report = make_report(comparison, compute_scores(comparison))
        comparison_grid(comparison).save(output / GRID)
        log_evaluation(tracker, report, loaded_release, "evaluate", [GRID])
    return report


def comparison_grid(comparison: Comparison) -> Image.Image:
    """For some concepts: the one picture, the base, before and after tuning, the edits and what they should be."""
    base, tuned, _ = comparison.systems
    edits = range(len(comparison.cases[0].edit_prompts))
    labels = ["the one picture", "base, from\nits caption"]
    labels += ["before tuning" if steps == 0 else f"after {steps} steps" for steps in tuned.steps]
    labels += [f"edit {edit + 1}" for edit in edits]
    labels += [f"true edit {edit + 1}" for edit in edits] if comparison.cases[0].reference_images else []
    rows = []
    for case in comparison.cases[: comparison.recipe.evaluate.num_grid_concepts]:
        tuned_images = comparison.results.load(tuned, case).images
        base_image = comparison.results.load(base, case).images[0][0]
        reconstructed = [tuned_images[steps][0] for steps in tuned.steps]
        rows.append(
            [case.images[0], base_image, *reconstructed, *tuned_images[tuned.steps[-1]][1:], *case.reference_images]
        )
    return labeled_grid(rows, labels)
