"""Versions in MLflow's registry: a release becomes one, and an alias says which one is used."""

import getpass
import os
import shutil
import warnings
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from encoder.errors import ConfigError
from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.registry.resolve import RELEASE_FOLDER
from pipelines.release.provenance import read_provenance
from pipelines.tracking.client import SEMANTIC_VERSION, as_mlflows_own, connect, experiment, first_line, shown_uri
from pipelines.tracking.stage_runs import (
    MANIFEST,
    RELEASE,
    STAGE,
    WEIGHTS,
    known_run,
    look_label,
    release_label,
    tracked,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE = "candidate"
"""Alias of the version that was registered last."""
SERVED = Path(__file__).parents[1] / "registry" / "model_code.py"
"""The model's code; importing it here would take seconds."""


def register(recipe: Recipe, release: Release) -> int:
    """Log the release as a model that can be served, and make it a version, alias ``candidate``; gives its number.

    The very same release is registered once. Raises ConfigError if the version is taken by another, RunError if MLflow
    cannot be reached.
    """
    uri = shown_uri(recipe.runs)
    try:
        client = connect(recipe.runs)
        version = _version(client, release.name, release.version)
        if version and version.tags.get(WEIGHTS) != release.content_digest:
            raise ConfigError(
                f"{release.id} is in the registry at {uri}, as version {version.version}, with other weights "
                "or settings; give another --version"
            )
        version = version or _register(client, recipe, release)
        client.set_registered_model_alias(release.name, CANDIDATE, version.version)
        return int(version.version)
    except ConfigError:
        raise
    except Exception as error:
        reason = f"MLflow at {uri} did not take it ({first_line(error)}); run the same command again when it answers"
        raise RunError(f"{release.folder} is whole and can be used, but {reason}") from error


def _register(client: "MlflowClient", recipe: Recipe, release: Release) -> "ModelVersion":
    label, provenance = release_label(release.version), read_provenance(release.folder)
    looked = known_run(recipe, look_label("evaluate", release.content_digest))
    tags = {RELEASE: release.id, WEIGHTS: release.content_digest, MANIFEST: provenance["data_manifest"]}
    from_runs = {"e4t.pretrain_run": provenance["mlflow_run_id"], "evaluate_run_id": looked}
    tags |= {name: run for name, run in from_runs.items() if run}
    with tracked(recipe, "release", label) as tracker:
        tracker.tags(tags)
    run = known_run(recipe, label)
    if run is None or tracker.left():
        raise RunError("it does not answer")
    if not client.search_registered_models(f"name = '{release.name}'"):
        client.create_registered_model(release.name)
    tags[SEMANTIC_VERSION] = release.version
    with as_mlflows_own(recipe.runs):
        source, model = _logged(release, run)
        return client.create_model_version(release.name, source, run, tags=tags, model_id=model)


def _logged(release: Release, run: str) -> tuple[str, str]:
    """The release as a model of a run: its URI and id."""
    import mlflow

    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with mlflow.start_run(run), TemporaryDirectory() as aside, warnings.catch_warnings():
        # MLflow calls a folder as it is called on the disk, whatever the key.
        named = shutil.copytree(release.folder, Path(aside, RELEASE_FOLDER))
        warnings.simplefilter("ignore")  # it would have hints on predict, and takes them for another signature
        from pipelines.registry.pyfunc_model import SIGNATURE

        made = mlflow.pyfunc.log_model(
            name="release",
            python_model=str(SERVED),
            artifacts={RELEASE_FOLDER: str(named)},
            signature=SIGNATURE,
            pip_requirements=[f"e4t=={installed('e4t')}"],
        )
    return str(made.model_uri), str(made.model_id)


def promote(name: str, version: str, alias: str, runs: Path) -> tuple[str | None, str]:
    """Move an alias to a version, by its number or its semantic version; gives the number before, if any, and now.

    The move is one call, so that whoever asks meanwhile gets the one or the other, and is a run in MLflow. Raises
    RunError if there is no such version, or MLflow cannot be reached.
    """
    try:
        client = connect(runs)
        now = _asked_for(client, name, version)
        before = _aliased(client, name, alias)
        tags = {
            STAGE: "promote",
            RELEASE: f"{name} {now.tags.get(SEMANTIC_VERSION, now.version)}",
            "e4t.alias": alias,
            "e4t.version": str(now.version),
            "e4t.version_before": before or "",
            "mlflow.user": getpass.getuser(),
        }
        said = f"{name}@{alias}: {before or 'none'} -> {now.version}"
        run = client.create_run(experiment(client, runs), run_name=said, tags=tags).info.run_id
        client.set_registered_model_alias(name, alias, now.version)
        client.set_terminated(run)
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"MLflow at {shown_uri(runs)} did not do it ({first_line(error)})") from error
    return before, str(now.version)


def _asked_for(client: "MlflowClient", name: str, version: str) -> "ModelVersion":
    known = client.search_model_versions(f"name = '{name}'")
    for each in known:
        if version in (str(each.version), each.tags.get(SEMANTIC_VERSION)):
            return each
    there = ", ".join(f"{each.version} ({each.tags.get(SEMANTIC_VERSION, '?')})" for each in reversed(known))
    raise RunError(f"no version {version} of {name} is registered; there are: {there or 'none'}")


def _aliased(client: "MlflowClient", name: str, alias: str) -> str | None:
    version = client.get_registered_model(name).aliases.get(alias)
    return str(version) if version is not None else None


def _version(client: "MlflowClient", name: str, semantic_version: str) -> "ModelVersion | None":
    versions = client.search_model_versions(f"name = '{name}'")
    return next((each for each in versions if each.tags.get(SEMANTIC_VERSION) == semantic_version), None)
