"""``e4t release``: a checkpoint becomes a folder to hand over, and a version in MLflow's registry."""

import shutil
from pathlib import Path

from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.evaluation.evaluate import GRID
from pipelines.release.checkpoint_selection import chosen
from pipelines.release.gate import Evaluated, check_gate
from pipelines.release.index import check_free, check_version
from pipelines.release.model_card import FIGURE, card
from pipelines.release.provenance import CARD, provenance_of, refuse_dirty, write_provenance
from pipelines.release.writer import holds, write_release


def make_release(
    recipe: Recipe, output: Path, version: str, checkpoint: Path | None = None, *, allow_dirty: bool = False
) -> Release:
    """Write the release folder of a checkpoint, by default the newest; it appears by rename, when whole.

    One that is there already stays. Raises ConfigError for a bad version or another release in the folder, RunError if
    there is no complete checkpoint, if its code is in no revision, or if its evaluation is below the recipe's gate.
    """
    check_version(version)
    checkpoint = checkpoint or chosen(recipe)
    provenance = provenance_of(recipe, checkpoint)
    if not allow_dirty:
        refuse_dirty(provenance)
    if holds(output, recipe, checkpoint, version):
        return Release.open(output)
    check_free(output)

    def finish(folder: Path) -> None:
        evaluated = Evaluated.of(recipe, Release.open(folder).content_digest)
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
