"""What MLflow is told of an evaluation, whose run the release's registered version then names."""

from collections.abc import Sequence

from encoder.releases.release import Release
from pipelines.evaluation.report import REPORT, SCORES, TABLE, Report
from pipelines.tracking.stage_runs import RELEASE, WEIGHTS
from pipelines.tracking.tracker import Tracker


def record(tracker: Tracker, report: Report, release: Release, kind: str, pictures: Sequence[str]) -> None:
    """Scores by tuning steps, the files and pictures."""
    tracker.tags({RELEASE: release.id, WEIGHTS: release.content_digest})
    for row in report.rows:
        values = {name: estimate.mean for name, estimate in row.scores.items()} | {"seconds": row.seconds.mean}
        tracker.metrics(row.steps, {f"{_plain(row.system)}/{_plain(name)}": value for name, value in values.items()})
    for file in (REPORT, SCORES, TABLE, *pictures):
        tracker.file(report.comparison.output / file)
    tracker.on_versions(release.name, WEIGHTS, release.content_digest, f"{kind}_run_id")


def _plain(name: str) -> str:
    """A name of characters that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-. " else " " for letter in name).strip()
