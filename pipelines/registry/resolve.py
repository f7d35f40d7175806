"""Resolve release locations: folders, hub ids, and ``models:/name@alias`` or ``models:/name/3`` in the registry."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.config_dict import sha256_json
from data_prep.storage.atomic import atomic_dir_shared
from e4t_errors import ConfigError
from encoder.errors import ModelError
from encoder.releases.download import release_folder
from encoder.releases.release import Release
from pipelines.errors import RunError
from pipelines.tracking.client import connect, first_line, redacted_uri, tracking_uri
from pipelines.tracking.stage_runs import WEIGHTS_TAG

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MODEL_URI_PATTERN = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
RELEASE_FOLDER = "release"
"""Name of the artifact folder that holds the release in a registered version."""


def cache_folder() -> Path:
    """Return the cache of downloaded releases and tuned concepts: ``E4T_CACHE``, or ``~/.cache/e4t``."""
    return Path(os.environ.get("E4T_CACHE") or Path.home() / ".cache" / "e4t")


def resolve_release(location: str, runs: Path | str = "runs") -> Path:
    """Return the folder of a release; a remote release is downloaded once.

    Raises RunError if the registry has no such version or cannot be reached; ConfigError if the location is malformed.
    """
    return (
        _download_once(get_version(location, runs), runs)
        if location.startswith("models:")
        else release_folder(location)
    )


def get_version(location: str, runs: Path | str) -> "ModelVersion":
    """Return the registered version of a ``models:/`` URI; raises the errors of ``resolve_release``."""
    match = MODEL_URI_PATTERN.fullmatch(location)
    if not match:
        raise ConfigError(f"{location} is not a registry URI; give models:/name@alias or models:/name/3")
    try:
        client = connect(runs)
        if match["alias"]:
            return client.get_model_version_by_alias(match["name"], match["alias"])
        return client.get_model_version(match["name"], match["version"])
    except Exception as error:
        uri = redacted_uri(runs)
        raise RunError(f"cannot get {location} from MLflow at {uri} ({first_line(error)})") from error


def _download_once(version: "ModelVersion", runs: Path | str) -> Path:
    """Return the release folder of a version; versions are immutable, so a cached download is never refreshed."""
    uri = tracking_uri(runs)
    path = cache_folder() / "releases" / f"{version.name}-{version.version}-{sha256_json([uri, version.source])[:12]}"
    if not path.exists():
        try:
            with atomic_dir_shared(path) as folder:
                _download(version, runs, folder)
        except Exception as error:
            raise RunError(
                f"cannot download version {version.version} of {version.name} ({first_line(error)})"
            ) from error
    return path / RELEASE_FOLDER


def _download(version: "ModelVersion", runs: Path | str, folder: Path) -> None:
    """Download a version and verify its digest; raises errors of MLflow, and ModelError if the release was modified."""
    from mlflow.artifacts import download_artifacts

    source_uri = connect(runs).get_model_version_download_uri(version.name, version.version)
    download_artifacts(
        f"{source_uri}/artifacts/{RELEASE_FOLDER}", dst_path=str(folder), tracking_uri=tracking_uri(runs)
    )
    if Release.open(folder / RELEASE_FOLDER).content_digest != version.tags.get(WEIGHTS_TAG):
        raise ModelError(
            "the stored files differ from the registered release; register the release under another version"
        )
