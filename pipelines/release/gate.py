"""What the run's evaluation says of the weights that are about to be released, and whether it suffices."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config.evaluation import PRETRAINED
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.evaluation.report import REPORT


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation of a release's weights."""

    folder: Path
    """With the grid."""
    weights_digest: str
    """Digest of the release that was looked at."""
    rows: list[dict[str, Any]]
    """As in the report: a system after a number of steps, with its scores."""
    num_concepts: int

    @classmethod
    def for_release(cls, recipe: Recipe, weights_digest: str) -> "EvaluationReport | None":
        """The run's evaluation; None if there is none that can be read, or it looked at others."""
        folder = recipe.folder / "evaluation"
        try:
            report = json.loads((folder / REPORT).read_text())
            evaluated_digests = {release["weights"] for release in report["releases"].values()}
        except (OSError, ValueError, KeyError, TypeError):  # none, a broken one, or an older e4t's
            return None
        return (
            cls(folder, weights_digest, report["systems"], len(report["concepts"]))
            if weights_digest in evaluated_digests
            else None
        )

    @property
    def final_scores(self) -> dict[str, dict[str, float]]:
        """Scores of the release after its last number of steps: each with ``mean``, ``low``, ``high``."""
        rows = [row for row in self.rows if row["system"] == PRETRAINED]
        scores: dict[str, dict[str, float]] = max(rows, key=lambda row: row["steps"])["scores"]
        return scores


def check_min_scores(recipe: Recipe, evaluation: EvaluationReport | None) -> None:
    """Raise RunError if the recipe asks for scores that were not reached, or not measured."""
    min_scores = recipe.publish.min_scores
    if not min_scores:
        return
    if evaluation is None:
        raise RunError(
            f"publish.min_scores asks for {', '.join(min_scores)}, and {recipe.folder} has no evaluation of this checkpoint; run "
            "`e4t evaluate` first"
        )
    if unknown := min_scores.keys() - evaluation.final_scores.keys():
        raise RunError(
            f"publish.min_scores asks for {', '.join(sorted(unknown))}; the evaluation measured {', '.join(evaluation.final_scores)}"
        )
    means = {name: evaluation.final_scores[name]["mean"] for name in min_scores}
    # Not a number is below everything.
    too_low = [
        f"{name} is {means[name]:.3f} of {least}" for name, least in min_scores.items() if not means[name] >= least
    ]
    if too_low:
        raise RunError(
            f"below publish.min_scores: {'; '.join(too_low)}. Train further, or lower what the recipe asks for"
        )
