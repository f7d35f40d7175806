"""``e4t release``: build the release folder of a checkpoint."""

import shutil
from pathlib import Path

from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.evaluation.evaluate import GRID
from pipelines.release.checkpoint_selection import select_checkpoint
from pipelines.release.gate import check_min_scores, evaluation_folder, load_evaluation
from pipelines.release.index import check_output_is_new, check_version
from pipelines.release.model_card import FIGURE, render_card
from pipelines.release.provenance import CARD_FILE, build_provenance, check_clean, write_provenance
from pipelines.release.writer import is_same_release, write_release


def make_release(
    recipe: Recipe, output: Path, version: str, checkpoint: Path | None = None, *, allow_dirty: bool = False
) -> Release:
    """Write the release folder of a checkpoint, by default the latest, atomically; return the opened release.

    If ``output`` already is this release, it is returned unchanged. Raises ConfigError if ``version`` is not semantic
    or ``output`` is something else; RunError if there is no complete checkpoint, the code has uncommitted changes and
    ``allow_dirty`` is false, or the evaluation is below ``publish.min_scores``.
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
        evaluation = load_evaluation(recipe, Release.open(folder).content_digest)
        check_min_scores(recipe, evaluation)
        has_figure = _copy_grid(recipe, folder / FIGURE, evaluated=evaluation is not None)
        (folder / CARD_FILE).write_text(render_card(recipe, version, provenance, evaluation, has_figure=has_figure))
        write_provenance(folder, provenance)

    return write_release(recipe, checkpoint, output, version, finish)


def _copy_grid(recipe: Recipe, target: Path, *, evaluated: bool) -> bool:
    """Copy the image grid of the evaluation, or the last one of training; return False if there is none."""
    grids = [evaluation_folder(recipe) / GRID] if evaluated else sorted((recipe.folder / "samples").glob("*.png"))
    if grids:
        shutil.copyfile(grids[-1], target)
    return bool(grids)


def candidate_release(recipe: Recipe) -> Path:
    """Write a candidate of the latest checkpoint to ``<run>/candidate`` for evaluation; return its folder."""
    checkpoint, output = select_checkpoint(recipe), recipe.folder / "candidate"
    version = f"0.0.0-{checkpoint.name.replace('_', '.')}"
    if not is_same_release(output, recipe, checkpoint, version):
        provenance = build_provenance(recipe, checkpoint)
        write_release(recipe, checkpoint, output, version, lambda folder: write_provenance(folder, provenance))
    return output
