"""Files of a checkpoint: the training state as safetensors and JSON, without pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from data_prep.storage.atomic import atomic_write
from e4t_errors import ConfigError
from encoder.model.weight_offsets import OffsetPredictor, save_offsets
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.state import Tensors, TrainingState
from pipelines.pretraining.optimizer import EMA

FORMAT_VERSION = 2
TRAINABLE_DIR, EMA_DIR, OPTIMIZER_DIR, STATE_FILE = "trainable", "ema", "optimizer", "state.json"
ENCODER_FILE, PREDICTOR_FILE, OFFSETS_FILE = (
    "domain_encoder.safetensors",
    "offset_predictor.safetensors",
    "weight_offsets.safetensors",
)
FILE_BY_PREFIX = {"encoder.": ENCODER_FILE, "offsets.": PREDICTOR_FILE}
"""File of each trained module, by the prefix of its parameter names in ``DomainModel``."""


@dataclass
class Progress:
    """How far a run has advanced. The field names are keys of ``state.json``."""

    step: int = 0
    """Optimizer steps, including skipped ones."""
    samples_seen: int = 0
    """Samples of the data stream that all ranks together have consumed."""
    seconds: float = 0.0
    """Seconds spent training, summed over all attempts."""
    skipped: int = 0
    """Steps that were skipped because a loss or gradient was not finite."""


def save_state(
    folder: Path, state: TrainingState, progress: Progress, predictor: OffsetPredictor, metadata: Mapping[str, Any]
) -> None:
    """Write a training state to an empty folder.

    ``predictor`` has the structure of the trained offset predictor; its own weights are not used. ``metadata`` is added
    to ``state.json``.
    """
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
    """Read what ``save_state`` wrote. Raises RunError if it is damaged, ConfigError if it is of another format."""
    metadata = load_metadata(folder)
    try:
        moments = {path.stem: load_file(path) for path in sorted((folder / OPTIMIZER_DIR).glob("*.safetensors"))}
        if (folder / EMA_DIR).exists():
            moments[EMA] = _load_parts(folder / EMA_DIR)
        return TrainingState(_load_parts(folder / TRAINABLE_DIR), moments, metadata["updates"], metadata["loss_scale"])
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(_unreadable(folder, error)) from error


def load_metadata(folder: Path) -> dict[str, Any]:
    """Read ``state.json``. Raises RunError if it is damaged, ConfigError if it is of another format."""
    try:
        metadata: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    except (OSError, ValueError) as error:
        raise RunError(_unreadable(folder, error)) from error
    if metadata.get("format") != FORMAT_VERSION:
        raise ConfigError(
            f"checkpoint {folder} has format {metadata.get('format')} and this version of e4t reads format "
            f"{FORMAT_VERSION}; continue with the version that wrote it, or start a new run under another name"
        )
    return metadata


def load_progress(folder: Path) -> Progress:
    """Read the progress of the run at this checkpoint."""
    metadata = load_metadata(folder)
    return Progress(**{name: metadata[name] for name in asdict(Progress())})


def weights_dir(folder: Path) -> Path:
    """Return the folder of the weights to release: the moving average if there is one, else the trained weights."""
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
        f"{prefix}{name}": tensor
        for prefix, file in FILE_BY_PREFIX.items()
        for name, tensor in load_file(folder / file).items()
    }


def _unreadable(folder: Path, error: Exception) -> str:
    return f"checkpoint {folder} cannot be read ({error}); delete it, and the run resumes from an older one"
