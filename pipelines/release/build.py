"""``e4t release``: a checkpoint becomes a folder to hand over, and a version in MLflow's registry."""

import shutil
from pathlib import Path

from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.evaluation.evaluate import GRID
from pipelines.release.checkpoint_selection import select_checkpoint
from pipelines.release.gate import EvaluationReport, check_min_scores
from pipelines.release.index import check_output_is_new, check_version
from pipelines.release.model_card import FIGURE, render_card
from pipelines.release.provenance import CARD_FILE, build_provenance, check_clean, write_provenance
from pipelines.release.writer import is_same_release, write_release


def make_release(
    recipe: Recipe, output: Path, version: str, checkpoint: Path | None = None, *, allow_dirty: bool = False
) -> Release:
    """Write the release folder of a checkpoint, by default the newest; it appears by rename, when whole.

    One that is there already stays. Raises ConfigError for a bad version or another release in the folder, RunError if
    there is no complete checkpoint, if its code is in no revision, or if its evaluation is below the recipe's gate.
    """
    check_version(version)
    checkpoint = checkpoint or select_checkpoint(recipe)
    provenance = build_provenance(recipe, checkpoint)
    if not allow_dirty:
        check_clean(provenance)
    if is_same_release(output, recipe, checkpoint, version):
        return Release.open(output)
    check_output_is_new(output)

    def finish(folder: Path) -> None:
        evaluated = EvaluationReport.for_release(recipe, Release.open(folder).content_digest)
        check_min_scores(recipe, evaluated)
        pictured = _copy_grid(recipe, evaluated, folder / FIGURE)
        (folder / CARD_FILE).write_text(render_card(recipe, version, provenance, evaluated, has_figure=pictured))
        write_provenance(folder, provenance)

    return write_release(recipe, checkpoint, output, version, finish)


def _copy_grid(recipe: Recipe, evaluation: EvaluationReport | None, target: Path) -> bool:
    """The evaluation's picture, or the last grid of training; False if there is neither."""
    grids = sorted((recipe.folder / "samples").glob("*.png"))
    found = evaluation.folder / GRID if evaluation else grids[-1] if grids else None
    if found:
        shutil.copyfile(found, target)
    return bool(found)


def candidate_release(recipe: Recipe) -> Path:
    """A release of the newest checkpoint to be looked at before there is one to hand over: ``<run>/candidate``."""
    checkpoint, output = select_checkpoint(recipe), recipe.folder / "candidate"
    version = f"0.0.0-{checkpoint.name.replace('_', '.')}"
    if not is_same_release(output, recipe, checkpoint, version):
        provenance = build_provenance(recipe, checkpoint)
        write_release(recipe, checkpoint, output, version, lambda folder: write_provenance(folder, provenance))
    return output
