"""``e4t release``: a checkpoint becomes a folder to hand over, and a version in MLflow's registry."""

import re
import shutil
from pathlib import Path

from encoder.errors import ConfigError
from encoder.release_format import Release
from pipelines.config import Recipe
from pipelines.evaluate import GRID
from pipelines.releasing.card import FIGURE, card
from pipelines.releasing.choice import chosen
from pipelines.releasing.evaluated import Evaluated, check_gate
from pipelines.releasing.folder import holds, write_release
from pipelines.releasing.provenance import CARD, provenance_of, refuse_dirty, write_provenance

SEMANTIC_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")


def make_release(
    recipe: Recipe, output: Path, version: str, checkpoint: Path | None = None, *, allow_dirty: bool = False
) -> Release:
    """Write the release folder of a checkpoint, by default the newest; it appears by rename, when whole.

    One that is there already stays. Raises ConfigError for a bad version or another release in the folder, RunError if
    there is no complete checkpoint, if its code is in no revision, or if its evaluation is below the recipe's gate.
    """
    if not SEMANTIC_VERSION.fullmatch(version):
        raise ConfigError(f"version {version!r} is not semantic; give one like 1.0.0")
    checkpoint = checkpoint or chosen(recipe)
    provenance = provenance_of(recipe, checkpoint)
    if not allow_dirty:
        refuse_dirty(provenance)
    if holds(output, recipe, checkpoint, version):
        return Release.open(output)
    if output.exists():
        raise ConfigError(f"{output} exists, of another release, and is never overwritten: give another --output")

    def finish(folder: Path) -> None:
        evaluated = Evaluated.of(recipe, Release.open(folder).digest)
        check_gate(recipe, evaluated)
        pictured = _picture(recipe, evaluated, folder / FIGURE)
        (folder / CARD).write_text(card(recipe, version, provenance, evaluated, pictured=pictured))
        write_provenance(folder, provenance)

    return write_release(recipe, checkpoint, output, version, finish)


def _picture(recipe: Recipe, evaluated: Evaluated | None, place: Path) -> bool:
    """The evaluation's picture, or the last grid of training; False if there is neither."""
    grids = sorted((recipe.folder / "samples").glob("*.png"))
    found = evaluated.folder / GRID if evaluated else grids[-1] if grids else None
    if found:
        shutil.copyfile(found, place)
    return bool(found)


def candidate(recipe: Recipe) -> Path:
    """A release of the newest checkpoint to be looked at before there is one to hand over: ``<run>/candidate``."""
    checkpoint, output = chosen(recipe), recipe.folder / "candidate"
    version = f"0.0.0-{checkpoint.name.replace('_', '.')}"
    if not holds(output, recipe, checkpoint, version):
        provenance = provenance_of(recipe, checkpoint)
        write_release(recipe, checkpoint, output, version, lambda folder: write_provenance(folder, provenance))
    return output
