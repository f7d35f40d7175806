"""An evaluation as a run in MLflow, linked to the release's version in the registry."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.release_format import Release
from pipelines.evaluation.report import REPORT, SCORES, TABLE, Report
from pipelines.tracking import EXPERIMENT, connect, experiment, first_line, send_metrics, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("e4t")


def record(report: Report, release: Path, kind: str, pictures: Sequence[str]) -> None:
    """Log scores by tuning steps, the files and pictures; a tracker that is away costs a line."""
    recipe = report.comparison.recipe
    try:
        _record(connect(recipe.runs), report, Release.open(release), kind, pictures)
    except Exception as error:  # noqa: BLE001 - whatever the tracker's trouble is, the report is whole
        log.warning("not logged: MLflow at %s did not take it (%s)", tracking_uri(recipe.runs), first_line(error))


def _record(client: "MlflowClient", report: Report, release: Release, kind: str, pictures: Sequence[str]) -> None:
    recipe = report.comparison.recipe
    tags = {"stage": kind, "release": release.identity}
    place = experiment(client, recipe.runs, EXPERIMENT)
    made = client.create_run(place, run_name=f"{kind} {release.identity}", tags=tags).info
    run, now = made.run_id, made.start_time
    send_metrics(client, run, [[key, value, now, steps] for key, value, steps in _metrics(report)])
    for file in (REPORT, SCORES, TABLE, *pictures):
        client.log_artifact(run, str(report.comparison.output / file))
    client.set_terminated(run)
    for version in client.search_model_versions(f"name = '{release.name}'"):
        if version.tags.get("semantic_version") == release.version:
            client.set_model_version_tag(release.name, version.version, f"{kind}_run_id", run)


def _metrics(report: Report) -> Iterator[tuple[str, float, int]]:
    for row in report.rows:
        values = {name: estimate.mean for name, estimate in row.scores.items()}
        for name, value in (values | {"seconds": row.seconds.mean}).items():
            yield f"{_plain(row.system)}/{_plain(name)}", value, row.steps


def _plain(name: str) -> str:
    """A name of characters that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-. " else " " for letter in name).strip()
