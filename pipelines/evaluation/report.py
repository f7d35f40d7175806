"""What a comparison leaves for people and programs: report.json, scores.csv, and tables."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.storage.atomic import atomic_write
from encoder.releases.release import Release
from pipelines.config.evaluation import BARE
from pipelines.evaluation.runner import Comparison
from pipelines.evaluation.statistics import TRUTH, Estimate, Row, Score, rows, write_csv
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
    def head(self) -> list[str]:
        """What a row's cells are."""
        return ["system", "steps", *self.columns, "seconds", "memory, GiB"]

    def plain(self) -> dict[str, Any]:
        """As plain data; equal commands give equal data, but for times and memory."""
        cases, recipe = self.comparison.cases, self.comparison.recipe
        releases = {system.start for system in self.comparison.systems} - {BARE}
        return {
            "recipe": recipe.plain(),
            "releases": {start: _named(Release.open(Path(start))) for start in sorted(releases)},
            "environment": self.environment,
            "concepts": {case.concept: list(case.prompts) for case in cases},
            "systems": [row.plain() for row in self.rows],
        }

    def write(self, measured: Sequence[Score]) -> None:
        """Write every file."""
        folder = self.comparison.output
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / REPORT, json.dumps(self.plain(), indent=1) + "\n")
        write_csv(folder / SCORES, measured)
        atomic_write(folder / TABLE, self.markdown() + "\n")

    def markdown(self) -> str:
        """A table, a row for each system after each number of steps."""
        lines = [self.head, ["---"] * len(self.head), *(self.cells(row) for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def cells(self, row: Row) -> list[str]:
        """A row's cells."""
        measured = row.system != TRUTH and row.peak_gib > 0
        spent = [f"{row.seconds.mean:.1f}", f"{row.peak_gib:.2f}"] if measured else ["", ""]
        return [row.system, str(row.steps), *(shown(row.scores[name]) for name in self.columns), *spent]


def _named(release: Release) -> dict[str, str]:
    return {"identity": release.id, "weights": release.content_digest}


def shown(estimate: Estimate) -> str:
    """``0.912 ± 0.010``: the mean, and half of its interval."""
    return f"{estimate.mean:.3f} ± {(estimate.high - estimate.low) / 2:.3f}"


def make_report(comparison: Comparison, measured: Sequence[Score]) -> Report:
    """Estimate, and write it down."""
    report = Report(comparison, rows(measured), environment())
    report.write(measured)
    return report
