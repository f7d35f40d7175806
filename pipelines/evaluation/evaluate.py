"""``e4t evaluate``: evaluate a release on held-out concepts, beside the base model and tuning without pre-training."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.evaluation.report import Report, log_evaluation
from pipelines.evaluation.runner import Comparison, run_local
from pipelines.evaluation.statistics import build_report
from pipelines.runtime.image_grid import labeled_grid
from pipelines.tracking.stage_runs import evaluation_label, stage_run

GRID = "grid.png"


def evaluate(
    recipe: Recipe, release: Path, output: Path, on_progress: Callable[[int, int], None] | None = None
) -> Report:
    """Tune on held-out concepts; write report.json, scores.csv, table.md and grid.png, and log them to MLflow.

    Results of an earlier call with the same recipe and release are reused. The scores depend neither on the number of
    processes nor on interruptions.
    """
    loaded_release = Release.open(release)
    with stage_run(recipe, "evaluate", evaluation_label("evaluate", loaded_release.content_digest)) as tracker:
        comparison = Comparison(recipe, recipe.evaluate.systems, release, output)
        run_local(comparison, on_progress)
        report = build_report(comparison)
        comparison_grid(comparison).save(output / GRID)
        log_evaluation(tracker, report, output, loaded_release, "evaluate", [GRID])
    return report


def comparison_grid(comparison: Comparison) -> Image.Image:
    """Draw a row per concept: input, base model, reconstruction after each number of steps, edits, reference images."""
    base, tuned, _ = comparison.systems
    edits = range(len(comparison.cases[0].edit_prompts))
    labels = ["input image", "base, from\nits caption"]
    labels += ["before tuning" if steps == 0 else f"after {steps} steps" for steps in tuned.steps]
    labels += [f"edit {edit + 1}" for edit in edits]
    labels += [f"reference {edit + 1}" for edit in edits] if comparison.cases[0].reference_images else []
    rows = []
    for case in comparison.cases[: comparison.recipe.evaluate.num_grid_concepts]:
        tuned_images = comparison.results.load(tuned, case).images
        base_image = comparison.results.load(base, case).images[0][0]
        reconstructed = [tuned_images[steps][0] for steps in tuned.steps]
        rows.append(
            [case.images[0], base_image, *reconstructed, *tuned_images[tuned.steps[-1]][1:], *case.reference_images]
        )
    return labeled_grid(rows, labels)
