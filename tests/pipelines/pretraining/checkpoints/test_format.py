"""What training has learned, as files and back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from encoder.model.domain_encoder import DomainEncoder
from encoder.model.weight_offsets import OffsetPredictor, load_offsets
from pipelines.errors import RunError
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
FACTS = {"data": {"dataset": "d" * 64}, "world_size": 3}


@pytest.fixture
def state(encoder: DomainEncoder, offsets: OffsetPredictor) -> TrainingState:
    """Of trained modules, with an average."""
    parts = {"encoder.": encoder, "offsets.": offsets}
    weights = {f"{prefix}{name}": p.detach() for prefix, part in parts.items() for name, p in part.named_parameters()}
    kept = {key: {name: torch.randn_like(tensor) for name, tensor in weights.items()} for key in (*MOMENTS, EMA)}
    return TrainingState(weights, kept, optimizer_steps=298, loss_scale=2.0**16)


def without_average(state: TrainingState) -> TrainingState:
    return TrainingState(
        state.weights, {key: state.moments[key] for key in MOMENTS}, state.optimizer_steps, state.loss_scale
    )


def written(folder: Path, state: TrainingState, offsets: OffsetPredictor) -> Path:
    folder.mkdir()
    save_state(folder, state, PROGRESS, offsets, FACTS)
    return folder


def same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def folder(state: TrainingState, offsets: OffsetPredictor, tmp_path: Path) -> Path:
    return written(tmp_path / "step_00000300", state, offsets)


def test_a_state_comes_back_bit_for_bit(state: TrainingState, folder: Path) -> None:
    again = load_state(folder)
    assert same(again.weights, state.weights)
    assert again.moments.keys() == state.moments.keys()
    assert all(same(again.moments[key], state.moments[key]) for key in state.moments)
    assert (again.optimizer_steps, again.loss_scale) == (298, 2.0**16)


def test_numbers_that_are_not_finite_or_tiny_come_back_too(
    state: TrainingState, offsets: OffsetPredictor, tmp_path: Path
) -> None:
    name = next(iter(state.weights))
    state.moments["exp_avg"][name].view(-1)[:3] = torch.tensor([float("inf"), 1e-45, -0.0])
    again = load_state(written(tmp_path / "odd", state, offsets)).moments["exp_avg"][name]
    assert torch.equal(again.view(torch.int32), state.moments["exp_avg"][name].view(torch.int32))


def test_progress_and_facts_come_back(folder: Path) -> None:
    assert load_progress(folder) == PROGRESS
    assert load_metadata(folder).items() >= FACTS.items()


def test_without_an_average_there_is_none_to_come_back(
    state: TrainingState, offsets: OffsetPredictor, tmp_path: Path
) -> None:
    folder = written(tmp_path / "plain", without_average(state), offsets)
    assert load_state(folder).moments.keys() == set(MOMENTS)
    assert not (folder / "averaged").exists()


def released(folder: Path) -> Tensor:
    with safe_open(weights_dir(folder) / "domain_encoder.safetensors", "pt") as file:
        return file.get_tensor("out_proj.weight")


def test_what_is_released_is_the_average_if_there_is_one(state: TrainingState, folder: Path) -> None:
    assert torch.equal(released(folder), state.moments[EMA]["encoder.out_proj.weight"])


def test_what_is_released_is_the_weights_if_there_is_no_average(
    state: TrainingState, offsets: OffsetPredictor, tmp_path: Path
) -> None:
    folder = written(tmp_path / "plain", without_average(state), offsets)
    assert torch.equal(released(folder), state.weights["encoder.out_proj.weight"])


def test_the_offsets_beside_the_weights_are_the_predictors(offsets: OffsetPredictor, folder: Path) -> None:
    kept, predicted = load_offsets(folder / "trainable" / "weight_offsets.safetensors"), offsets()
    assert kept.keys() == predicted.keys()
    assert all(torch.equal(factor, of) for name in kept for factor, of in zip(kept[name], predicted[name], strict=True))


def test_an_encoder_takes_its_part_as_it_is(encoder: DomainEncoder, folder: Path) -> None:
    with safe_open(folder / "trainable" / "domain_encoder.safetensors", "pt") as file:
        assert set(file.keys()) == encoder.state_dict().keys()


def test_nothing_but_safetensors_and_json_is_written(folder: Path) -> None:
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".safetensors", ".json"}


@pytest.mark.parametrize("found", [0, 2, None])
def test_another_format_is_refused_in_one_line(folder: Path, found: int | None) -> None:
    about = json.loads((folder / "state.json").read_text())
    del about["format"]
    (folder / "state.json").write_text(json.dumps(about if found is None else about | {"format": found}))
    for read in (load_state, load_progress, load_metadata):
        with pytest.raises(RunError, match=f"{folder} has format {found}, this e4t reads 1") as caught:
            read(folder)
        assert "\n" not in str(caught.value)
