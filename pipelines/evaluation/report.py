"""What a comparison leaves for people and programs: report.json, scores.csv, and tables."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.storage.atomic import atomic_write
from encoder.releases.release import Release
from pipelines.config.evaluation import BASE
from pipelines.evaluation.runner import Comparison
from pipelines.evaluation.statistics import REFERENCE, Estimate, Row, Score, aggregate_scores, write_csv
from pipelines.tracking.environment import environment

REPORT, SCORES, TABLE = "report.json", "scores.csv", "table.md"


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and on what."""

    comparison: Comparison
    rows: list[Row]
    environment: dict[str, Any]

    @property
    def columns(self) -> list[str]:
        """Names of the scores."""
        return list(self.rows[0].scores)

    @property
    def header(self) -> list[str]:
        """What a row's cells are."""
        return ["system", "steps", *self.columns, "seconds", "memory, GiB"]

    def to_dict(self) -> dict[str, Any]:
        """As plain data; equal commands give equal data, but for times and memory."""
        cases, recipe = self.comparison.cases, self.comparison.recipe
        releases = {system.init for system in self.comparison.systems} - {BASE}
        return {
            "recipe": recipe.to_dict(),
            "releases": {start: _release_ids(Release.open(Path(start))) for start in sorted(releases)},
            "environment": self.environment,
            "concepts": {case.concept: list(case.prompts) for case in cases},
            "systems": [row.to_dict() for row in self.rows],
        }

    def write(self, scores: Sequence[Score]) -> None:
        """Write every file."""
        folder = self.comparison.output
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / REPORT, json.dumps(self.to_dict(), indent=1) + "\n")
        write_csv(folder / SCORES, scores)
        atomic_write(folder / TABLE, self.markdown() + "\n")

    def markdown(self) -> str:
        """A table, a row for each system after each number of steps."""
        lines = [self.header, ["---"] * len(self.header), *(self.cells(row) for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def cells(self, row: Row) -> list[str]:
        """A row's cells."""
        has_costs = row.system != REFERENCE and row.peak_gib > 0
        costs = [f"{row.seconds.mean:.1f}", f"{row.peak_gib:.2f}"] if has_costs else ["", ""]
        return [row.system, str(row.steps), *(format_estimate(row.scores[name]) for name in self.columns), *costs]


def _release_ids(release: Release) -> dict[str, str]:
    return {"identity": release.id, "weights": release.content_digest}


def format_estimate(estimate: Estimate) -> str:
    """``0.912 ± 0.010``: the mean, and half of its interval."""
    return f"{estimate.mean:.3f} ± {(estimate.high - estimate.low) / 2:.3f}"


def make_report(comparison: Comparison, scores: Sequence[Score]) -> Report:
    """Estimate, and write it down."""
    report = Report(comparison, aggregate_scores(scores), environment())
    report.write(scores)
    return report
