"""What the run's evaluation says of the weights that are about to be released, and whether it suffices."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config.evaluation import TUNED
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.evaluation.report import REPORT


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of a release's weights."""

    folder: Path
    """With the grid."""
    weights: str
    """Digest of the release that was looked at."""
    rows: list[dict[str, Any]]
    """As in the report: a system after a number of steps, with its scores."""
    concepts: int

    @classmethod
    def of(cls, recipe: Recipe, weights: str) -> "Evaluated | None":
        """The run's evaluation; None if there is none that can be read, or it looked at others."""
        folder = recipe.folder / "evaluation"
        try:
            report = json.loads((folder / REPORT).read_text())
            looked_at = {release["weights"] for release in report["releases"].values()}
        except (OSError, ValueError, KeyError, TypeError):  # none, a broken one, or an older e4t's
            return None
        return cls(folder, weights, report["systems"], len(report["concepts"])) if weights in looked_at else None

    @property
    def last(self) -> dict[str, dict[str, float]]:
        """Scores of the release after its last number of steps: each with ``mean``, ``low``, ``high``."""
        rows = [row for row in self.rows if row["system"] == TUNED]
        scores: dict[str, dict[str, float]] = max(rows, key=lambda row: row["steps"])["scores"]
        return scores


def check_gate(recipe: Recipe, evaluated: Evaluated | None) -> None:
    """Raise RunError if the recipe asks for scores that were not reached, or not measured."""
    gate = recipe.publish.gate
    if not gate:
        return
    if evaluated is None:
        raise RunError(
            f"publish.gate asks for {', '.join(gate)}, and {recipe.folder} has no evaluation of this checkpoint; run "
            "`e4t evaluate` first"
        )
    if unknown := gate.keys() - evaluated.last.keys():
        raise RunError(
            f"publish.gate asks for {', '.join(sorted(unknown))}; the evaluation measured {', '.join(evaluated.last)}"
        )
    means = {name: evaluated.last[name]["mean"] for name in gate}
    # Not a number is below everything.
    below = [f"{name} is {means[name]:.3f} of {least}" for name, least in gate.items() if not means[name] >= least]
    if below:
        raise RunError(f"below publish.gate: {'; '.join(below)}. Train further, or lower what the recipe asks for")
