"""The provenance of a release (provenance.json): write it, read it, and verify files against it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.shards.manifest import Manifest
from data_prep.storage.atomic import sha256_file
from encoder.releases.release import PROVENANCE
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.format import load_metadata
from pipelines.tracking.environment import environment
from pipelines.tracking.stage_runs import stage_run_id

CARD_FILE = "README.md"
"""Model card of a release."""
DIRTY_SUFFIX = "-changed"
"""Suffix of the code revision of a checkout with uncommitted changes."""


def build_provenance(recipe: Recipe, checkpoint: Path) -> dict[str, Any]:
    """Collect recipe, checkpoint, data, base model and environment of a release, without the digests of its files."""
    metadata = load_metadata(checkpoint)
    return {
        "recipe": recipe.to_dict(),
        "checkpoint": checkpoint.name,
        "steps": metadata["step"],
        "samples_seen": metadata["samples_seen"],
        "training_seconds": round(metadata["seconds"], 1),
        "data_manifest": metadata["data"]["dataset"],
        "data_identities": Manifest.load(recipe.data.output).identities,
        "base": metadata["base"],
        "mlflow_run_id": stage_run_id(recipe, "pretrain"),
        "environment": metadata["environment"],
        "released_by": environment(),
    }


def check_clean(provenance: dict[str, Any]) -> None:
    """Raise RunError if uncommitted code was used to train or to release."""
    environment_keys = {"trained": "environment", "released": "released_by"}
    dirty = [verb for verb, key in environment_keys.items() if provenance[key]["code"].endswith(DIRTY_SUFFIX)]
    if dirty:
        raise RunError(
            f"{' and '.join(dirty)} with uncommitted code changes; commit them and repeat that, or release anyway with "
            "--allow-dirty"
        )


def write_provenance(folder: Path, provenance: dict[str, Any]) -> None:
    """Write provenance.json with the SHA-256 of every other file in the folder."""
    files = {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    (folder / PROVENANCE).write_text(json.dumps(provenance | {"files": files}, indent=1) + "\n")


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read provenance.json. Raises RunError if it is missing or not valid JSON."""
    try:
        provenance: dict[str, Any] = json.loads((folder / PROVENANCE).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} has no readable {PROVENANCE} ({error}); get the release again") from error
    return provenance


def modified_files(folder: Path, provenance: dict[str, Any]) -> Iterator[str]:
    """Yield the names of released files that are missing or modified."""
    for name, digest in provenance.get("files", {}).items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != digest:
            yield name
