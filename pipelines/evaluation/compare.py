"""``e4t compare``: the methods beside each other on held-out concepts; ends in the figure, the plots and a page."""

from collections.abc import Callable
from pathlib import Path

from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.evaluation.figure import FIGURE, draw_figure
from pipelines.evaluation.html_report import PAGE, write_page
from pipelines.evaluation.mlflow_log import log_evaluation
from pipelines.evaluation.plots import SIMILARITY_BY_TIME, TRADE_OFF, draw_plots
from pipelines.evaluation.report import Report, make_report
from pipelines.evaluation.runner import Comparison
from pipelines.evaluation.statistics import compute_scores
from pipelines.tracking.stage_runs import evaluation_label, stage_run


def build_comparison(recipe: Recipe, release: Path, output: Path) -> Comparison:
    """What ``e4t compare`` makes: every system of the recipe on the same concepts."""
    return Comparison(recipe, recipe.compare.systems, release, output)


def present(comparison: Comparison, release: Path, on_progress: Callable[[int, int], None] | None = None) -> Report:
    """Measure what was made; write numbers, figure, plots and page, and tell MLflow.

    Raises RunError if some of it is missing.
    """
    if num_missing := comparison.num_missing():
        raise RunError(
            f"{comparison.output} lacks {num_missing} results; run `e4t compare` again, or its ranks that failed"
        )
    loaded_release = Release.open(release)
    with stage_run(comparison.recipe, "compare", evaluation_label("compare", loaded_release.content_digest)) as tracker:
        report = make_report(comparison, compute_scores(comparison, on_progress))
        draw_figure(comparison)
        draw_plots(report)
        write_page(report)
        log_evaluation(
            tracker,
            report,
            loaded_release,
            "compare",
            [f"{FIGURE}.png", f"{TRADE_OFF}.png", f"{SIMILARITY_BY_TIME}.png", PAGE],
        )
    return report
