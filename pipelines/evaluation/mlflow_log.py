"""What MLflow is told of an evaluation, whose run the release's registered version then names."""

from collections.abc import Sequence

from encoder.releases.release import Release
from pipelines.evaluation.report import REPORT, SCORES, TABLE, Report
from pipelines.tracking.stage_runs import RELEASE_TAG, WEIGHTS_TAG
from pipelines.tracking.tracker import Tracker


def log_evaluation(tracker: Tracker, report: Report, release: Release, stage: str, image_files: Sequence[str]) -> None:
    """Scores by tuning steps, the files and pictures."""
    tracker.set_tags({RELEASE_TAG: release.id, WEIGHTS_TAG: release.content_digest})
    for row in report.rows:
        values = {name: estimate.mean for name, estimate in row.scores.items()} | {"seconds": row.seconds.mean}
        tracker.log_metrics(
            row.steps, {f"{_mlflow_name(row.system)}/{_mlflow_name(name)}": value for name, value in values.items()}
        )
    for file in (REPORT, SCORES, TABLE, *image_files):
        tracker.log_artifact(report.comparison.output / file)
    tracker.tag_model_versions(release.name, WEIGHTS_TAG, release.content_digest, f"{stage}_run_id")


def _mlflow_name(name: str) -> str:
    """A name of characters that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-. " else " " for letter in name).strip()
