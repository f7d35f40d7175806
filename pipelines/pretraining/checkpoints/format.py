"""A training state as files: safetensors and JSON, no pickle, nothing that depends on who wrote it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from data_prep.storage.atomic import atomic_write
from encoder.legacy_keys import rename_legacy_tensors
from encoder.model.weight_offsets import OffsetPredictor, save_offsets
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.state import Tensors, TrainingState
from pipelines.pretraining.optimizer import EMA

FORMAT_VERSION = 1
TRAINABLE_DIR, EMA_DIR, OPTIMIZER_DIR, STATE_FILE = "trainable", "averaged", "optimizer", "state.json"
ENCODER_FILE, PREDICTOR_FILE, OFFSETS_FILE = (
    "domain_encoder.safetensors",
    "offset_predictor.safetensors",
    "weight_offsets.safetensors",
)
FILE_BY_PREFIX = {"encoder.": ENCODER_FILE, "offsets.": PREDICTOR_FILE}


@dataclass
class Progress:
    """Where a run is."""

    step: int = 0
    samples_seen: int = 0
    seconds: float = 0.0
    """Spent in training, over all sittings."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite."""


def save_state(
    folder: Path, state: TrainingState, progress: Progress, predictor: OffsetPredictor, metadata: Mapping[str, Any]
) -> None:
    """Fill a folder; ``facts`` say what the run was, ``predictor`` is one of the run's shapes and form."""
    _save_parts(folder / TRAINABLE_DIR, state.weights, predictor)
    if EMA in state.moments:
        _save_parts(folder / EMA_DIR, state.moments[EMA], predictor)
    (folder / OPTIMIZER_DIR).mkdir()
    for name, tensors in state.moments.items():
        if name != EMA:
            save_file(tensors, folder / OPTIMIZER_DIR / f"{name}.safetensors")
    record = {
        "format": FORMAT_VERSION,
        **asdict(progress),
        "updates": state.optimizer_steps,
        "loss_scale": state.loss_scale,
        **metadata,
    }
    atomic_write(folder / STATE_FILE, json.dumps(record, indent=1) + "\n")


def load_state(folder: Path) -> TrainingState:
    """What ``write_state`` wrote. Raises RunError if it is anything else."""
    metadata = load_metadata(folder)
    try:
        moments = {
            path.stem: rename_legacy_tensors(load_file(path))
            for path in sorted((folder / OPTIMIZER_DIR).glob("*.safetensors"))
        }
        if (folder / EMA_DIR).exists():
            moments[EMA] = _load_parts(folder / EMA_DIR)
        return TrainingState(_load_parts(folder / TRAINABLE_DIR), moments, metadata["updates"], metadata["loss_scale"])
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"checkpoint {folder} cannot be read ({error}); delete it: an older one is taken up") from error


def load_metadata(folder: Path) -> dict[str, Any]:
    """``state.json``. Raises RunError if it is broken, or of another format."""
    try:
        metadata: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"checkpoint {folder} cannot be read ({error}); delete it: an older one is taken up") from error
    if metadata.get("format") != FORMAT_VERSION:
        raise RunError(
            f"checkpoint {folder} has format {metadata.get('format')}, this e4t reads {FORMAT_VERSION}; go on with the e4t that "
            "wrote it, or start anew under another name"
        )
    return metadata


def load_progress(folder: Path) -> Progress:
    """Where the run was."""
    metadata = load_metadata(folder)
    return Progress(**{name: metadata[name] for name in asdict(Progress())})


def weights_dir(folder: Path) -> Path:
    """The folder of what is released: the average if one was kept."""
    return folder / EMA_DIR if (folder / EMA_DIR).exists() else folder / TRAINABLE_DIR


def _save_parts(folder: Path, weights: Tensors, predictor: OffsetPredictor) -> None:
    folder.mkdir()
    for prefix, file in FILE_BY_PREFIX.items():
        part = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        save_file(part, folder / file)
        if file == PREDICTOR_FILE:
            filled = predictor.meta_copy()
            filled.load_state_dict(part, assign=True)
            save_offsets(filled(), folder / OFFSETS_FILE)


def _load_parts(folder: Path) -> Tensors:
    return {
        f"{prefix}{name}": t
        for prefix, file in FILE_BY_PREFIX.items()
        for name, t in rename_legacy_tensors(load_file(folder / file)).items()
    }
