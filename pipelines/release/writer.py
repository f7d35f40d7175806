"""The release folder: weights, settings, provenance and card, whole or not there; nothing of the base model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_prep.storage.atomic import sha256_file, atomic_dir
from encoder.backbone.backbone import Backbone
from encoder.model.domain_encoder import DomainEncoderConfig
from encoder.releases.release import ENCODER, INDEX, OFFSETS, WEIGHTS, Release
from pipelines.config.recipe import Recipe
from pipelines.pretraining.checkpoints import format as saved_state
from pipelines.pretraining.checkpoints.format import best_weights, read_facts
from pipelines.release.index import describe, index_of

Finish = Callable[[Path], None]
TAKEN = {ENCODER: saved_state.ENCODER, OFFSETS: saved_state.OFFSETS}
"""Parts of a release, and the checkpoint's files that are their weights."""


def write_release(recipe: Recipe, checkpoint: Path, output: Path, version: str, finish: Finish) -> Release:
    """Write a release of a checkpoint; ``finish`` adds to the folder before it appears."""
    width, sees = recipe.pretrain.hidden_width, recipe.pretrain.encoder_sees
    encoder_config = DomainEncoderConfig.for_backbone(Backbone.load(recipe.base), width, sees)
    with atomic_dir(output) as folder:
        for part, file in TAKEN.items():
            (folder / part).mkdir()
            shutil.copyfile(best_weights(checkpoint) / file, folder / part / WEIGHTS)
        describe(folder, index=_index(recipe, checkpoint, output, version), encoder=asdict(encoder_config))
        finish(folder)
    return Release.open(output)


def holds(output: Path, recipe: Recipe, checkpoint: Path, version: str) -> bool:
    """Whether ``output`` is the release that ``write_release`` would make."""
    try:
        index = json.loads((output / INDEX).read_text())
        kept = {part: sha256_file(output / part / WEIGHTS) for part in TAKEN}
    except (OSError, ValueError):
        return False
    wanted = {part: sha256_file(best_weights(checkpoint) / file) for part, file in TAKEN.items()}
    return bool(index == _plain(_index(recipe, checkpoint, output, version))) and kept == wanted


def _index(recipe: Recipe, checkpoint: Path, output: Path, version: str) -> dict[str, Any]:
    revision = read_facts(checkpoint)["base"]["revision"] or None  # the one that was trained on, whatever main is now
    return index_of(
        recipe.name,
        version,
        output,
        base=replace(recipe.base, revision=revision),
        resolution=recipe.data.resolution,
        conditioning=recipe.conditioning,
        tune=recipe.tune,
        sample=recipe.sample,
    )


def _plain(data: dict[str, Any]) -> Any:  # noqa: ANN401 - as JSON gives it back
    return json.loads(json.dumps(data))
