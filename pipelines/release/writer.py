"""Write the release folder of a checkpoint atomically, and recognize one that was written before."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from safetensors.torch import load_file

from data_prep.storage.atomic import atomic_dir, sha256_file
from encoder.backbone.backbone import Backbone
from encoder.errors import ModelError
from encoder.finite import check_finite
from encoder.model.domain_encoder import DomainEncoderConfig
from encoder.releases.index import ReleaseIndex, read_index
from encoder.releases.release import ENCODER, OFFSETS, WEIGHTS, Release
from pipelines.config.recipe import Recipe
from pipelines.pretraining.checkpoints import format as saved_state
from pipelines.pretraining.checkpoints.format import load_metadata, weights_dir
from pipelines.release.index import build_index, write_index

FinishFn = Callable[[Path], None]
RELEASE_FILES = {ENCODER: saved_state.ENCODER_FILE, OFFSETS: saved_state.OFFSETS_FILE}
"""Parts of a release, and the files of a checkpoint that hold their weights."""


def write_release(recipe: Recipe, checkpoint: Path, output: Path, version: str, finish: FinishFn) -> Release:
    """Write the release of a checkpoint; ``finish`` may add files before the folder is moved to ``output``.

    Raises ModelError if a weight is not finite.
    """
    hidden_width, encoder_inputs = recipe.pretrain.hidden_width, recipe.pretrain.encoder_inputs
    encoder_config = DomainEncoderConfig.for_backbone(Backbone.load(recipe.base), hidden_width, encoder_inputs)
    with atomic_dir(output) as folder:
        for part, file in RELEASE_FILES.items():
            (folder / part).mkdir()
            shutil.copyfile(weights_dir(checkpoint) / file, folder / part / WEIGHTS)
            check_finite(load_file(folder / part / WEIGHTS), f"checkpoint {checkpoint}", "release an earlier one")
        write_index(
            folder, index=_release_index(recipe, checkpoint, output, version), encoder_config=asdict(encoder_config)
        )
        finish(folder)
    return Release.open(output)


def is_same_release(output: Path, recipe: Recipe, checkpoint: Path, version: str) -> bool:
    """Return whether ``output`` already is the release that ``write_release`` would write."""
    try:
        index = ReleaseIndex.from_dict(output, read_index(output))
        actual = {part: sha256_file(output / part / WEIGHTS) for part in RELEASE_FILES}
    except (OSError, ModelError):
        return False
    expected = {part: sha256_file(weights_dir(checkpoint) / file) for part, file in RELEASE_FILES.items()}
    return actual == expected and index == _release_index(recipe, checkpoint, output, version)


def _release_index(recipe: Recipe, checkpoint: Path, output: Path, version: str) -> ReleaseIndex:
    # Record the revision that was trained on, even if the base model has been updated on the hub since.
    revision = load_metadata(checkpoint)["base"]["revision"] or None
    return build_index(
        recipe.name,
        version,
        output,
        base=replace(recipe.base, revision=revision),
        resolution=recipe.data.resolution,
        conditioning=recipe.conditioning,
        tune=recipe.tune,
        sample=recipe.sample,
    )
