"""The release folder: weights, settings, provenance and card, whole or not there; nothing of the base model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.files import sha256_of, whole_folder
from encoder.backbone import Backbone
from encoder.domain_encoder import DomainEncoderConfig
from encoder.release_format import (
    CONFIG,
    ENCODER,
    FORMAT_VERSION,
    INDEX,
    KIND,
    OFFSETS,
    WEIGHTS,
    Release,
    relative_to,
)
from pipelines import saved_state
from pipelines.config import Recipe
from pipelines.saved_state import best_weights, read_facts

Finish = Callable[[Path], None]
TAKEN = {ENCODER: saved_state.ENCODER, OFFSETS: saved_state.OFFSETS}
"""Parts of a release, and the checkpoint's files that are their weights."""


def write_release(recipe: Recipe, checkpoint: Path, output: Path, version: str, finish: Finish) -> Release:
    """Write a release of a checkpoint; ``finish`` adds to the folder before it appears."""
    width, sees = recipe.pretrain.hidden_width, recipe.pretrain.encoder_sees
    encoder_config = DomainEncoderConfig.for_backbone(Backbone.load(recipe.base), width, sees)
    with whole_folder(output) as folder:
        for part, file in TAKEN.items():
            (folder / part).mkdir()
            shutil.copyfile(best_weights(checkpoint) / file, folder / part / WEIGHTS)
        _json(folder / ENCODER / CONFIG, asdict(encoder_config))
        _json(folder / OFFSETS / CONFIG, {"form": "collapsed", "rank": 3, "applied_to": ["to_q", "to_k", "to_v"]})
        _json(folder / INDEX, _index(recipe, checkpoint, output, version))
        finish(folder)
    return Release.open(output)


def holds(output: Path, recipe: Recipe, checkpoint: Path, version: str) -> bool:
    """Whether ``output`` is the release that ``write_release`` would make."""
    try:
        index = json.loads((output / INDEX).read_text())
        kept = {part: sha256_of(output / part / WEIGHTS) for part in TAKEN}
    except (OSError, ValueError):
        return False
    wanted = {part: sha256_of(best_weights(checkpoint) / file) for part, file in TAKEN.items()}
    return bool(index == _plain(_index(recipe, checkpoint, output, version))) and kept == wanted


def _index(recipe: Recipe, checkpoint: Path, output: Path, version: str) -> dict[str, Any]:
    clip = recipe.base.clip
    return {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "name": recipe.name,
        "version": version,
        "base": {
            "model": relative_to(recipe.base.model, output),
            "revision": read_facts(checkpoint)["base"]["revision"] or None,
            "clip": clip and relative_to(clip, output),
            "dtype": recipe.base.dtype,
        },
        "resolution": recipe.data.resolution,
        "conditioning": asdict(recipe.conditioning),
        "tuning": asdict(recipe.tune),
        "sampling": asdict(recipe.sample),
    }


def _plain(data: dict[str, Any]) -> Any:  # noqa: ANN401 - as JSON gives it back
    return json.loads(json.dumps(data))


def _json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n")
