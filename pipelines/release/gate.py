"""Check that the evaluation of a release reaches the scores that the recipe requires."""

from pathlib import Path

from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.evaluation.report import Report


def evaluation_folder(recipe: Recipe) -> Path:
    """Return the folder in which ``e4t evaluate`` writes its report by default."""
    return recipe.folder / "evaluation"


def load_evaluation(recipe: Recipe, weights_digest: str) -> Report | None:
    """Return the evaluation report of the run; None if it is missing, unreadable, or of other weights.

    ``weights_digest`` is the content digest of the release.
    """
    report = Report.load(evaluation_folder(recipe))
    if report is None or all(release.weights != weights_digest for release in report.releases.values()):
        return None
    return report


def check_min_scores(recipe: Recipe, evaluation: Report | None) -> None:
    """Raise RunError if a score required by ``publish.min_scores`` was not reached or not measured."""
    min_scores = recipe.publish.min_scores
    if not min_scores:
        return
    required = ", ".join(min_scores)
    if evaluation is None:
        raise RunError(
            f"publish.min_scores requires {required}, but {recipe.folder} has no evaluation of this checkpoint; "
            "run `e4t evaluate` first"
        )
    final_scores = evaluation.final_scores
    if unknown := sorted(min_scores.keys() - final_scores.keys()):
        raise RunError(
            f"publish.min_scores requires {', '.join(unknown)}, but the evaluation measured only "
            f"{', '.join(final_scores)}; correct the names in the recipe"
        )
    means = {name: final_scores[name].mean for name in min_scores}
    # `not >=` instead of `<`: a score that is NaN reaches no minimum.
    too_low = [f"{name} is {means[name]:.3f} of {low}" for name, low in min_scores.items() if not means[name] >= low]
    if too_low:
        raise RunError(f"below publish.min_scores: {'; '.join(too_low)}; train longer, or lower the minimum")
