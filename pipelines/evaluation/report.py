"""The evaluation report: schema, reading and writing of report.json, Markdown table, and logging to MLflow.

Reports written before the scores and keys were renamed are read through ``_RENAMED_SCORES`` and ``_RENAMED_SYSTEMS``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.storage.atomic import atomic_write
from encoder.releases.release import Release
from pipelines.config.evaluation import PRETRAINED
from pipelines.config.renamed import RENAMED_KEYS
from pipelines.tracking.stage_runs import RELEASE_TAG, WEIGHTS_TAG
from pipelines.tracking.tracker import Tracker

REPORT_FILE, SCORES_FILE, TABLE_FILE = "report.json", "scores.csv", "table.md"
REFERENCE = "reference images"
"""System name of the rows that score the reference images themselves."""
_RENAMED_SCORES = RENAMED_KEYS["publish.min_scores"]
_RENAMED_SYSTEMS = {"the true pictures": REFERENCE}


@dataclass(frozen=True)
class Estimate:
    """A mean over concepts with its bootstrap confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format as ``0.912 ± 0.010``: the mean and half of the interval's width."""
        return f"{self.mean:.3f} ± {(self.high - self.low) / 2:.3f}"


@dataclass(frozen=True)
class Row:
    """Scores of one system after a number of tuning steps, over all concepts."""

    system: str
    steps: int
    num_images: int
    """Images per concept that the system was tuned on."""
    scores: dict[str, Estimate]
    seconds: Estimate
    """Tuning time for one concept, without sampling."""
    peak_gib: float
    """Peak memory of tuning in GiB; 0 if nothing was tuned."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Row":
        """Parse a row of report.json, current or older."""
        scores = {_RENAMED_SCORES.get(name, name): Estimate(**value) for name, value in data["scores"].items()}
        return cls(
            system=_RENAMED_SYSTEMS.get(data["system"], data["system"]),
            steps=data["steps"],
            num_images=data["num_images"] if "num_images" in data else data["pictures"],
            scores=scores,
            seconds=Estimate(**data["seconds"]),
            peak_gib=data["peak_gib"],
        )


@dataclass(frozen=True)
class EvaluatedRelease:
    """The release that a system was initialized from."""

    identity: str
    """Name and version."""
    weights: str
    """Content digest of the release."""


@dataclass(frozen=True)
class Report:
    """Scores of all systems, and everything that they were computed with; equal commands give equal reports.

    Only times, memory and the environment differ between equal commands.
    """

    recipe: dict[str, Any]
    releases: dict[str, EvaluatedRelease]
    """Evaluated releases by folder."""
    environment: dict[str, Any]
    concepts: dict[str, list[str]]
    """Prompts of each concept."""
    rows: list[Row]

    @property
    def columns(self) -> list[str]:
        """Names of the scores."""
        return list(self.rows[0].scores)

    @property
    def score_labels(self) -> list[str]:
        """Column titles of the scores."""
        return [score_label(name) for name in self.columns]

    @property
    def header(self) -> list[str]:
        """Titles of the table's columns."""
        return ["system", "steps", *self.score_labels, "seconds", "memory, GiB"]

    @property
    def final_scores(self) -> dict[str, Estimate]:
        """Scores of the evaluated release after the largest number of tuning steps."""
        return max((row for row in self.rows if row.system == PRETRAINED), key=lambda row: row.steps).scores

    def cells(self, row: Row) -> list[str]:
        """Format a row of the table, one text per column of ``header``."""
        has_costs = row.system != REFERENCE and row.peak_gib > 0
        costs = [f"{row.seconds.mean:.1f}", f"{row.peak_gib:.2f}"] if has_costs else ["", ""]
        return [row.system, str(row.steps), *(str(row.scores[name]) for name in self.columns), *costs]

    def markdown(self) -> str:
        """Return a Markdown table with one row for each system and number of steps."""
        lines = [self.header, ["---"] * len(self.header), *(self.cells(row) for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of report.json."""
        data = asdict(self)
        data["systems"] = data.pop("rows")
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Report":
        """Parse report.json. Raises KeyError, TypeError or AttributeError if it is not a report."""
        return cls(
            recipe=data["recipe"],
            releases={folder: EvaluatedRelease(**release) for folder, release in data["releases"].items()},
            environment=data["environment"],
            concepts=data["concepts"],
            rows=[Row.from_dict(row) for row in data["systems"]],
        )

    def save(self, folder: Path) -> None:
        """Write report.json and table.md to ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / REPORT_FILE, json.dumps(self.to_dict(), indent=1) + "\n")
        atomic_write(folder / TABLE_FILE, self.markdown() + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Report | None":
        """Read the report of an evaluation folder; return None if there is none or it cannot be parsed."""
        try:
            return cls.from_dict(json.loads((folder / REPORT_FILE).read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def score_label(name: str) -> str:
    """Return the column title of a score; its words are separated by spaces, so that narrow columns can wrap it."""
    return name.replace("_", " ")


def log_evaluation(
    tracker: Tracker, report: Report, folder: Path, release: Release, stage: str, image_files: Sequence[str]
) -> None:
    """Log scores by tuning steps and the files of ``folder`` to MLflow.

    Registered versions of the release get the tag ``<stage>_run_id`` with the id of this MLflow run.
    """
    tracker.set_tags({RELEASE_TAG: release.id, WEIGHTS_TAG: release.content_digest})
    for row in report.rows:
        values = {name: estimate.mean for name, estimate in row.scores.items()} | {"seconds": row.seconds.mean}
        prefix = _mlflow_name(row.system)
        tracker.log_metrics(row.steps, {f"{prefix}/{_mlflow_name(name)}": value for name, value in values.items()})
    for file in (REPORT_FILE, SCORES_FILE, TABLE_FILE, *image_files):
        tracker.log_artifact(folder / file)
    tracker.tag_model_versions(release.name, WEIGHTS_TAG, release.content_digest, f"{stage}_run_id")


def _mlflow_name(name: str) -> str:
    """Replace characters that MLflow does not accept in metric names."""
    return "".join(char if char.isalnum() or char in "_-. " else " " for char in name).strip()
