"""``e4t compare``: compare tuning methods on held-out concepts; writes scores, a figure, plots and an HTML report."""

from collections.abc import Callable
from pathlib import Path

from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.evaluation.figure import FIGURE, draw_figure
from pipelines.evaluation.html_report import HTML_FILE, write_html
from pipelines.evaluation.plots import SIMILARITY_BY_TIME, TRADE_OFF, draw_plots
from pipelines.evaluation.report import Report, log_evaluation
from pipelines.evaluation.runner import Comparison
from pipelines.evaluation.statistics import build_report
from pipelines.tracking.stage_runs import evaluation_label, stage_run


def build_comparison(recipe: Recipe, release: Path, output: Path) -> Comparison:
    """Return the comparison of all systems of ``recipe.compare`` on the same concepts."""
    return Comparison(recipe, recipe.compare.systems, release, output)


def present(comparison: Comparison, release: Path, on_progress: Callable[[int, int], None] | None = None) -> Report:
    """Score the results; write the report, figure, plots and HTML page, and log them to MLflow.

    Raises RunError if results are missing.
    """
    output = comparison.output
    if num_missing := comparison.num_missing():
        raise RunError(
            f"{output} lacks {num_missing} results; run `e4t compare` again, or only the ranks that did not finish"
        )
    loaded_release = Release.open(release)
    with stage_run(comparison.recipe, "compare", evaluation_label("compare", loaded_release.content_digest)) as tracker:
        report = build_report(comparison, on_progress)
        draw_figure(comparison)
        draw_plots(report, output)
        write_html(report, comparison)
        image_files = [f"{FIGURE}.png", f"{TRADE_OFF}.png", f"{SIMILARITY_BY_TIME}.png", HTML_FILE]
        log_evaluation(tracker, report, output, loaded_release, "compare", image_files)
    return report
