"""Where a release comes from, in its own folder, and whether its files are still what was released."""

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
"""Written last; people may mend its words."""
DIRTY_SUFFIX = "-changed"
"""How a revision of a checkout with changes ends."""


def build_provenance(recipe: Recipe, checkpoint: Path) -> dict[str, Any]:
    """Everything but the digests of the release's own files, as plain data."""
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
    """Raise RunError if code that no revision holds has trained or released."""
    environment_keys = {"trained": "environment", "released": "released_by"}
    dirty = [done for done, place in environment_keys.items() if provenance[place]["code"].endswith(DIRTY_SUFFIX)]
    if dirty:
        raise RunError(
            f"{' and '.join(dirty)} by changed code that no revision holds; commit it and do that again, or release "
            "all the same with --allow-dirty true"
        )


def write_provenance(folder: Path, provenance: dict[str, Any]) -> None:
    """Write it, with the sha256 of every other file that is there."""
    files = {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    (folder / PROVENANCE).write_text(json.dumps(provenance | {"files": files}, indent=1) + "\n")


def read_provenance(folder: Path) -> dict[str, Any]:
    """What ``write_provenance`` wrote. Raises RunError if it is missing or broken."""
    try:
        found: dict[str, Any] = json.loads((folder / PROVENANCE).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} does not say where it comes from ({error}); get the release again") from error
    return found


def modified_files(folder: Path, provenance: dict[str, Any]) -> Iterator[str]:
    """Names of files that are missing or not as they were released."""
    for name, digest in provenance.get("files", {}).items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != digest:
            yield name
