"""A stage as a run of MLflow: what it was told, by which code and where; what it takes and leaves, stages add."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from data_prep.config import PrepareConfig
from data_prep.config_diff import flatten
from data_prep.shards.manifest import MANIFEST_NAME, Manifest
from data_prep.storage.atomic import atomic_write
from pipelines.config.recipe import Recipe
from pipelines.tracking.environment import code_diff, code_revision, environment
from pipelines.tracking.tracker import Tracker, has_unsent_after_end, read_run_id

TRACKING_DIR = "tracking"
"""In a run's folder: a folder for each of its runs in MLflow."""
DATASETS_DIR = ".sets"
"""In the folder of all runs: one for each prepared set, by its digest."""
STAGE_TAG, MANIFEST_TAG, RELEASE_TAG, WEIGHTS_TAG = "e4t.stage", "e4t.data_manifest", "e4t.release", "e4t.weights"
"""Tags by which stages are found again: what they are, and the digests of what they take and leave."""


def open_tracker(recipe: Recipe, stage: str, label: str | None = None) -> Tracker:
    """Begin, or take up, the stage's run; ``label`` tells apart what a run folder may have several of."""
    label = label or stage
    folder = recipe.folder / TRACKING_DIR / label
    return _start_tracker(Path(recipe.runs), folder, stage, f"{label} {recipe.name}", recipe.to_dict())


@contextmanager
def stage_run(recipe: Recipe, stage: str, label: str | None = None) -> Iterator[Tracker]:
    """A stage from begin to end; then what earlier stages could not send is sent, too."""
    tracker = open_tracker(recipe, stage, label)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    finally:
        tracker.close(status)
        if not tracker.num_pending():
            _flush_finished(recipe)


def stage_run_id(recipe: Recipe, label: str) -> str | None:
    """MLflow's id of a stage of this run folder; None if it has not been told of it."""
    return read_run_id(recipe.folder / TRACKING_DIR / label)


def log_dataset(config: PrepareConfig, manifest: Manifest, runs: Path) -> None:
    """Tell MLflow of a prepared set, once."""
    folder, name = runs / DATASETS_DIR / manifest.digest[:12], f"prepare {manifest.domain}"
    if has_unsent_after_end(folder):
        Tracker(runs, folder, name).close(None)
    if read_run_id(folder):
        return
    tracker = _start_tracker(runs, folder, "prepare", name, {"data": asdict(config)})
    tracker.log_dataset(manifest.domain, manifest.digest, config.output, "prepared")
    tracker.log_metrics(
        0, {"kept": manifest.kept, **{f"rejected/{why}": n for why, n in manifest.reject_counts.items()}}
    )
    atomic_write(folder / MANIFEST_NAME, json.dumps(manifest.to_json(), indent=1) + "\n")
    tracker.log_artifact(folder / MANIFEST_NAME)
    tracker.close("FINISHED")


def _start_tracker(runs: Path, folder: Path, stage: str, name: str, settings: Mapping[str, Any]) -> Tracker:
    tracker = Tracker(runs, folder, name)
    tracker.start()
    tracker.log_params(flatten(settings))
    revision = code_revision()
    tracker.set_tags({STAGE_TAG: stage, "mlflow.source.name": f"e4t {stage}", "mlflow.source.git.commit": revision})
    artifacts = {
        "recipe.yaml": yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False, allow_unicode=True),
        "environment.json": json.dumps(environment(), indent=1) + "\n",
        "code.diff": code_diff(),
    }
    for file, text in artifacts.items():
        if text:
            atomic_write(folder / file, text)
            tracker.log_artifact(folder / file)
    return tracker


def _flush_finished(recipe: Recipe) -> None:
    """Of stages that have ended; one that has not is still at it, or will be taken up."""
    stages = {folder: folder.name for folder in (recipe.folder / TRACKING_DIR).iterdir()}
    stages |= dict.fromkeys((Path(recipe.runs) / DATASETS_DIR).glob("*"), "prepare")
    for folder, label in sorted(stages.items()):
        if has_unsent_after_end(folder):
            Tracker(recipe.runs, folder, f"{label} {recipe.name}").close(None)


def release_label(version: str) -> str:
    """Of a release's run in MLflow."""
    return f"release-{version}"


def evaluation_label(stage: str, weights_digest: str) -> str:
    """Of an evaluation's or comparison's run in MLflow, by the digest of the release that was looked at."""
    return f"{stage}-{weights_digest[:8]}"
