"""Each stage is a run of MLflow with its recipe, code revision and environment; stages add their inputs and outputs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from data_prep.config import MANIFEST_NAME, PrepareConfig
from data_prep.config_dict import flatten
from data_prep.shards.manifest import Manifest
from data_prep.storage.atomic import atomic_write
from pipelines.config.recipe import Recipe
from pipelines.tracking.environment import code_diff, code_revision, environment
from pipelines.tracking.tracker import Tracker, has_ended, has_unsent_after_end, read_run_id

TRACKING_DIR = "tracking"
"""Folder in the run folder, with a folder for each MLflow run of it."""
DATASETS_DIR = ".sets"
"""Folder in the folder of all runs, with a folder for each prepared dataset, named by its digest."""
STAGE_TAG, MANIFEST_TAG, RELEASE_TAG, WEIGHTS_TAG = "e4t.stage", "e4t.data_manifest", "e4t.release", "e4t.weights"
"""MLflow tags that stages are searched by: name of the stage, and digests of dataset, release and released weights."""


def open_tracker(recipe: Recipe, stage: str, label: str | None = None) -> Tracker:
    """Create the stage's MLflow run, or continue it if an earlier attempt created it.

    ``label`` distinguishes several MLflow runs of the same stage in one run folder; by default it is the stage's name.
    """
    label = label or stage
    folder = recipe.folder / TRACKING_DIR / label
    return _start_tracker(Path(recipe.runs), folder, stage, f"{label} {recipe.name}", recipe.to_dict())


@contextmanager
def stage_run(recipe: Recipe, stage: str, label: str | None = None) -> Iterator[Tracker]:
    """Track a stage inside the ``with`` block. Afterwards entries that earlier stages could not send are sent."""
    tracker = open_tracker(recipe, stage, label)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    finally:
        tracker.close(status)
        if not tracker.num_pending():
            _flush_finished(recipe)


def end_stage_run(recipe: Recipe, stage: str, status: str) -> None:
    """Send what an earlier attempt of a stage has queued, and set the run's status if that attempt could not.

    Does nothing if the stage was never tracked, or has ended and everything is sent.
    """
    folder = recipe.folder / TRACKING_DIR / stage
    if not folder.exists():
        return
    ended = has_ended(folder)
    if not ended or has_unsent_after_end(folder):
        Tracker(recipe.runs, folder, f"{stage} {recipe.name}").close(None if ended else status)


def stage_run_id(recipe: Recipe, label: str) -> str | None:
    """Return the MLflow id of a stage of this run folder, or None if MLflow has not been reached yet."""
    return read_run_id(recipe.folder / TRACKING_DIR / label)


def log_dataset(config: PrepareConfig, manifest: Manifest, runs: Path) -> None:
    """Log a prepared dataset to MLflow, once."""
    folder, name = runs / DATASETS_DIR / manifest.digest[:12], f"prepare {manifest.domain}"
    if has_unsent_after_end(folder):
        Tracker(runs, folder, name).close(None)
    if read_run_id(folder):
        return
    tracker = _start_tracker(runs, folder, "prepare", name, {"data": asdict(config)})
    tracker.log_dataset(manifest.domain, manifest.digest, config.output, "prepared")
    tracker.log_metrics(
        0, {"kept": manifest.kept, **{f"rejected/{reason}": count for reason, count in manifest.reject_counts.items()}}
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
    """Send the queued entries of stages that have ended; others are still running or will be resumed."""
    stages = {folder: folder.name for folder in (recipe.folder / TRACKING_DIR).iterdir()}
    stages |= dict.fromkeys((Path(recipe.runs) / DATASETS_DIR).glob("*"), "prepare")
    for folder, label in sorted(stages.items()):
        if has_unsent_after_end(folder):
            Tracker(recipe.runs, folder, f"{label} {recipe.name}").close(None)


def release_label(version: str) -> str:
    """Return the label of a release's MLflow run."""
    return f"release-{version}"


def evaluation_label(stage: str, weights_digest: str) -> str:
    """Return the label of an evaluation's or comparison's MLflow run, by the digest of the release."""
    return f"{stage}-{weights_digest[:8]}"
