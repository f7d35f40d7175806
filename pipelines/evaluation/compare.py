"""``e4t compare``: the methods beside each other on held-out concepts; ends in the figure, the plots and a page."""

from collections.abc import Callable
from pathlib import Path

from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.evaluation.figure import FIGURE, draw_figure
from pipelines.evaluation.html_report import PAGE, write_page
from pipelines.evaluation.mlflow_log import record
from pipelines.evaluation.plots import TIME, TRADE, draw_plots
from pipelines.evaluation.report import Report, make_report
from pipelines.evaluation.runner import Comparison
from pipelines.evaluation.statistics import scores
from pipelines.tracking.stage_runs import look_label, tracked


def comparison_of(recipe: Recipe, release: Path, output: Path) -> Comparison:
    """What ``e4t compare`` makes: every system of the recipe on the same concepts."""
    return Comparison(recipe, recipe.compare.systems, release, output)


def present(comparison: Comparison, release: Path, on_done: Callable[[int, int], None] | None = None) -> Report:
    """Measure what was made; write numbers, figure, plots and page, and tell MLflow.

    Raises RunError if some of it is missing.
    """
    if left := comparison.left():
        raise RunError(f"{comparison.output} lacks {left} results; run `e4t compare` again, or its ranks that failed")
    opened = Release.open(release)
    with tracked(comparison.recipe, "compare", look_label("compare", opened.content_digest)) as tracker:
        report = make_report(comparison, scores(comparison, on_done))
        draw_figure(comparison)
        draw_plots(report)
        write_page(report)
        record(tracker, report, opened, "compare", [f"{FIGURE}.png", f"{TRADE}.png", f"{TIME}.png", PAGE])
    return report
