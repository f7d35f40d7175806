"""Register releases as model versions in MLflow, and promote versions by moving aliases."""

import getpass
import os
import shutil
import warnings
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from e4t_errors import ConfigError
from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.registry.resolve import RELEASE_FOLDER
from pipelines.release.provenance import read_provenance
from pipelines.tracking.client import (
    SEMANTIC_VERSION_TAG,
    connect,
    first_line,
    get_or_create_experiment,
    mlflow_tracking_uri,
    redacted_uri,
)
from pipelines.tracking.stage_runs import (
    MANIFEST_TAG,
    RELEASE_TAG,
    STAGE_TAG,
    WEIGHTS_TAG,
    evaluation_label,
    release_label,
    stage_run,
    stage_run_id,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE = "candidate"
"""Alias of the version registered last."""
MODEL_CODE = Path(__file__).parents[1] / "registry" / "model_code.py"
"""Code file of the served model; a path, because importing it would take seconds."""


def register(recipe: Recipe, release: Release) -> int:
    """Register the release as a servable model version with alias ``candidate``; return the version number.

    An identical release is registered once. Raises ConfigError if its semantic version is registered with other
    content, ModelError if a weight is not finite, RunError if MLflow cannot be reached.
    """
    release.check_weights()
    uri = redacted_uri(recipe.runs)
    try:
        client = connect(recipe.runs)
        version = _find_semantic_version(client, release.name, release.version)
        if version and version.tags.get(WEIGHTS_TAG) != release.content_digest:
            raise ConfigError(
                f"{release.id} is already registered at {uri} as version {version.version} with other weights "
                "or settings; give another --version"
            )
        version = version or _create_version(client, recipe, release)
        client.set_registered_model_alias(release.name, CANDIDATE, version.version)
        return int(version.version)
    except ConfigError:
        raise
    except Exception as error:
        raise RunError(
            f"{release.folder} is complete and usable, but MLflow at {uri} did not register it ({first_line(error)}); "
            "rerun the command when MLflow is reachable"
        ) from error


def _create_version(client: "MlflowClient", recipe: Recipe, release: Release) -> "ModelVersion":
    label, provenance = release_label(release.version), read_provenance(release.folder)
    evaluate_run_id = stage_run_id(recipe, evaluation_label("evaluate", release.content_digest))
    tags = {RELEASE_TAG: release.id, WEIGHTS_TAG: release.content_digest, MANIFEST_TAG: provenance["data_manifest"]}
    from_runs = {"e4t.pretrain_run": provenance["mlflow_run_id"], "evaluate_run_id": evaluate_run_id}
    tags |= {name: run for name, run in from_runs.items() if run}
    with stage_run(recipe, "release", label) as tracker:
        tracker.set_tags(tags)
    run = stage_run_id(recipe, label)
    if run is None or tracker.num_pending():
        raise RunError("the tracking server does not respond")
    if not client.search_registered_models(f"name = '{release.name}'"):
        client.create_registered_model(release.name)
    tags[SEMANTIC_VERSION_TAG] = release.version
    with mlflow_tracking_uri(recipe.runs):
        source, model = _log_model(release, run)
        return client.create_model_version(release.name, source, run, tags=tags, model_id=model)


def _log_model(release: Release, run: str) -> tuple[str, str]:
    """Log the release as a model of a run; return the URI and the id of the model."""
    import mlflow

    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with mlflow.start_run(run), TemporaryDirectory() as tmp_dir, warnings.catch_warnings():
        # MLflow names the artifact folder after the folder on disk, not after the key in `artifacts`.
        release_copy = shutil.copytree(release.folder, Path(tmp_dir, RELEASE_FOLDER))
        warnings.simplefilter(
            "ignore"
        )  # MLflow asks for type hints on predict, but would derive a second signature from them
        from pipelines.registry.pyfunc_model import SIGNATURE

        model_info = mlflow.pyfunc.log_model(
            name="release",
            python_model=str(MODEL_CODE),
            artifacts={RELEASE_FOLDER: str(release_copy)},
            signature=SIGNATURE,
            pip_requirements=[f"e4t=={installed('e4t')}"],
        )
    return str(model_info.model_uri), str(model_info.model_id)


def promote(name: str, version: str, alias: str, runs: Path) -> tuple[str | None, str]:
    """Move an alias to a version, given by number or semantic version; return its previous and its new version number.

    The alias is moved by one atomic call, and the move is logged as a run. Raises RunError if there is no such version
    or MLflow cannot be reached.
    """
    try:
        client = connect(runs)
        current = _find_version(client, name, version)
        previous = _aliased_version(client, name, alias)
        tags = {
            STAGE_TAG: "promote",
            RELEASE_TAG: f"{name} {current.tags.get(SEMANTIC_VERSION_TAG, current.version)}",
            "e4t.alias": alias,
            "e4t.version": str(current.version),
            "e4t.version_before": previous or "",
            "mlflow.user": getpass.getuser(),
        }
        run_name = f"{name}@{alias}: {previous or 'none'} -> {current.version}"
        run = client.create_run(get_or_create_experiment(client, runs), run_name=run_name, tags=tags).info.run_id
        client.set_registered_model_alias(name, alias, current.version)
        client.set_terminated(run)
    except RunError:
        raise
    except Exception as error:
        raise RunError(
            f"cannot set alias {alias} of {name} in MLflow at {redacted_uri(runs)} ({first_line(error)})"
        ) from error
    return previous, str(current.version)


def _find_version(client: "MlflowClient", name: str, version: str) -> "ModelVersion":
    versions = client.search_model_versions(f"name = '{name}'")
    for each in versions:
        if version in (str(each.version), each.tags.get(SEMANTIC_VERSION_TAG)):
            return each
    available = ", ".join(f"{each.version} ({each.tags.get(SEMANTIC_VERSION_TAG, '?')})" for each in reversed(versions))
    raise RunError(f"no version {version} of {name} is registered; available: {available or 'none'}")


def _aliased_version(client: "MlflowClient", name: str, alias: str) -> str | None:
    version = client.get_registered_model(name).aliases.get(alias)
    return str(version) if version is not None else None


def _find_semantic_version(client: "MlflowClient", name: str, semantic_version: str) -> "ModelVersion | None":
    versions = client.search_model_versions(f"name = '{name}'")
    return next((each for each in versions if each.tags.get(SEMANTIC_VERSION_TAG) == semantic_version), None)
