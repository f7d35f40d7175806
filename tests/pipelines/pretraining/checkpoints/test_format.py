"""The training state is written to files and read back without a change."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from e4t_errors import ConfigError
from encoder.model.domain_encoder import DomainEncoder
from encoder.model.weight_offsets import OffsetPredictor, load_offsets
from pipelines.pretraining.checkpoints.format import (
    Progress,
    load_metadata,
    load_progress,
    load_state,
    save_state,
    weights_dir,
)
from pipelines.pretraining.checkpoints.state import Tensors, TrainingState
from pipelines.pretraining.optimizer import EMA, MOMENTS

PROGRESS = Progress(step=300, samples_seen=19_200, seconds=90.5, skipped=2)
METADATA = {"data": {"dataset": "d" * 64}, "world_size": 3}


@pytest.fixture
def state(encoder: DomainEncoder, offsets: OffsetPredictor) -> TrainingState:
    """Return the state of trained modules, with a moving average."""
    parts = {"encoder.": encoder, "offsets.": offsets}
    weights = {f"{prefix}{name}": p.detach() for prefix, part in parts.items() for name, p in part.named_parameters()}
    moments = {key: {name: torch.randn_like(tensor) for name, tensor in weights.items()} for key in (*MOMENTS, EMA)}
    return TrainingState(weights, moments, optimizer_steps=298, loss_scale=2.0**16)


def without_ema(state: TrainingState) -> TrainingState:
    return TrainingState(
        state.weights, {key: state.moments[key] for key in MOMENTS}, state.optimizer_steps, state.loss_scale
    )


def write_checkpoint(folder: Path, state: TrainingState, offsets: OffsetPredictor) -> Path:
    folder.mkdir()
    save_state(folder, state, PROGRESS, offsets, METADATA)
    return folder


def same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def folder(state: TrainingState, offsets: OffsetPredictor, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "step_00000300", state, offsets)


def test_a_state_is_restored_bit_for_bit(state: TrainingState, folder: Path) -> None:
    loaded = load_state(folder)
    assert same(loaded.weights, state.weights)
    assert loaded.moments.keys() == state.moments.keys()
    assert all(same(loaded.moments[key], state.moments[key]) for key in state.moments)
    assert (loaded.optimizer_steps, loaded.loss_scale) == (298, 2.0**16)


def test_non_finite_and_denormal_values_are_restored(
    state: TrainingState, offsets: OffsetPredictor, tmp_path: Path
) -> None:
    name = next(iter(state.weights))
    state.moments["exp_avg"][name].view(-1)[:3] = torch.tensor([float("inf"), 1e-45, -0.0])
    loaded = load_state(write_checkpoint(tmp_path / "odd", state, offsets)).moments["exp_avg"][name]
    assert torch.equal(loaded.view(torch.int32), state.moments["exp_avg"][name].view(torch.int32))


def test_progress_and_metadata_are_restored(folder: Path) -> None:
    assert load_progress(folder) == PROGRESS
    assert load_metadata(folder).items() >= METADATA.items()


def test_without_a_moving_average_none_is_written(
    state: TrainingState, offsets: OffsetPredictor, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "plain", without_ema(state), offsets)
    assert load_state(folder).moments.keys() == set(MOMENTS)
    assert not (folder / "ema").exists()


def released_weight(folder: Path) -> Tensor:
    with safe_open(weights_dir(folder) / "domain_encoder.safetensors", "pt") as file:
        return file.get_tensor("out_proj.weight")


def test_the_moving_average_is_released_if_there_is_one(state: TrainingState, folder: Path) -> None:
    assert torch.equal(released_weight(folder), state.moments[EMA]["encoder.out_proj.weight"])


def test_the_weights_are_released_if_there_is_no_moving_average(
    state: TrainingState, offsets: OffsetPredictor, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "plain", without_ema(state), offsets)
    assert torch.equal(released_weight(folder), state.weights["encoder.out_proj.weight"])


def test_the_saved_weight_offsets_are_those_of_the_predictor(offsets: OffsetPredictor, folder: Path) -> None:
    saved, predicted = load_offsets(folder / "trainable" / "weight_offsets.safetensors"), offsets()
    assert saved.keys() == predicted.keys()
    assert all(torch.equal(a, b) for name in saved for a, b in zip(saved[name], predicted[name], strict=True))


def test_the_file_of_the_encoder_has_the_keys_of_its_state_dict(encoder: DomainEncoder, folder: Path) -> None:
    with safe_open(folder / "trainable" / "domain_encoder.safetensors", "pt") as file:
        assert set(file.keys()) == encoder.state_dict().keys()


def test_only_safetensors_and_json_files_are_written(folder: Path) -> None:
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".safetensors", ".json"}


@pytest.mark.parametrize("version", [0, 1, 3, None])
def test_another_format_is_refused_in_one_line(folder: Path, version: int | None) -> None:
    metadata = json.loads((folder / "state.json").read_text())
    del metadata["format"]
    (folder / "state.json").write_text(json.dumps(metadata if version is None else metadata | {"format": version}))
    for read in (load_state, load_progress, load_metadata):
        with pytest.raises(
            ConfigError, match=f"{folder} has format {version} and this version of e4t reads format 2;"
        ) as caught:
            read(folder)
        assert "\n" not in str(caught.value)
