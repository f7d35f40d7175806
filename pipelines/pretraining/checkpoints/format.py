"""A training state as files: safetensors and JSON, no pickle, nothing that depends on who wrote it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from data_prep.storage.atomic import atomic_write
from encoder.model.weight_offsets import OffsetPredictor, save_offsets
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.state import Tensors, TrainingState
from pipelines.pretraining.optimizer import AVERAGE

FORMAT = 1
TRAINABLE, AVERAGED, OPTIMIZER, STATE = "trainable", "averaged", "optimizer", "state.json"
ENCODER, PREDICTOR, OFFSETS = "domain_encoder.safetensors", "offset_predictor.safetensors", "weight_offsets.safetensors"
PARTS = {"encoder.": ENCODER, "offsets.": PREDICTOR}


@dataclass
class Progress:
    """Where a run is."""

    step: int = 0
    samples_seen: int = 0
    seconds: float = 0.0
    """Spent in training, over all sittings."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite."""


def write_state(
    folder: Path, state: TrainingState, progress: Progress, predictor: OffsetPredictor, facts: Mapping[str, Any]
) -> None:
    """Fill a folder; ``facts`` say what the run was, ``predictor`` is one of the run's shapes and form."""
    _write_parts(folder / TRAINABLE, state.weights, predictor)
    if AVERAGE in state.moments:
        _write_parts(folder / AVERAGED, state.moments[AVERAGE], predictor)
    (folder / OPTIMIZER).mkdir()
    for name, tensors in state.moments.items():
        if name != AVERAGE:
            save_file(tensors, folder / OPTIMIZER / f"{name}.safetensors")
    about = {
        "format": FORMAT,
        **asdict(progress),
        "updates": state.updates,
        "loss_scale": state.loss_scale,
        **facts,
    }
    atomic_write(folder / STATE, json.dumps(about, indent=1) + "\n")


def read_state(folder: Path) -> TrainingState:
    """What ``write_state`` wrote. Raises RunError if it is anything else."""
    about = read_facts(folder)
    try:
        moments = {path.stem: load_file(path) for path in sorted((folder / OPTIMIZER).glob("*.safetensors"))}
        if (folder / AVERAGED).exists():
            moments[AVERAGE] = _read_parts(folder / AVERAGED)
        return TrainingState(_read_parts(folder / TRAINABLE), moments, about["updates"], about["loss_scale"])
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"checkpoint {folder} cannot be read ({error}); delete it: an older one is taken up") from error


def read_facts(folder: Path) -> dict[str, Any]:
    """``state.json``. Raises RunError if it is broken, or of another format."""
    try:
        about: dict[str, Any] = json.loads((folder / STATE).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"checkpoint {folder} cannot be read ({error}); delete it: an older one is taken up") from error
    if about.get("format") != FORMAT:
        raise RunError(
            f"checkpoint {folder} has format {about.get('format')}, this e4t reads {FORMAT}; go on with the e4t that "
            "wrote it, or start anew under another name"
        )
    return about


def read_progress(folder: Path) -> Progress:
    """Where the run was."""
    about = read_facts(folder)
    return Progress(**{name: about[name] for name in asdict(Progress())})


def best_weights(folder: Path) -> Path:
    """The folder of what is released: the average if one was kept."""
    return folder / AVERAGED if (folder / AVERAGED).exists() else folder / TRAINABLE


def _write_parts(folder: Path, weights: Tensors, predictor: OffsetPredictor) -> None:
    folder.mkdir()
    for prefix, file in PARTS.items():
        part = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        save_file(part, folder / file)
        if file == PREDICTOR:
            filled = predictor.meta_copy()
            filled.load_state_dict(part, assign=True)
            save_offsets(filled(), folder / OFFSETS)


def _read_parts(folder: Path) -> Tensors:
    return {f"{prefix}{name}": t for prefix, file in PARTS.items() for name, t in load_file(folder / file).items()}
