"""The files in the folder of a finished run of two ranks."""

import json
from pathlib import Path

import pytest

from tests.pipelines.pretraining.runs import LAST, engine_of, lines, tensors

pytestmark = pytest.mark.distributed


def test_two_ranks_train_in_a_deepspeed_engine_with_the_zero_stage_of_the_recipe(run: Path) -> None:
    engine = engine_of(run)
    assert (engine["engine"], engine["world_size"], engine["zero_stage"], engine["bf16"]) == (
        "DeepSpeedEngine",
        2,
        2,
        True,
    )


def test_a_run_writes_checkpoints_samples_validation_loss_and_heartbeat(run: Path) -> None:
    assert (run / LAST / "COMPLETE").exists()
    assert (run / "samples" / "step_00000004.png").exists()
    assert lines(run / "metrics.jsonl")[-1]["validation_loss"] > 0
    assert json.loads((run / "heartbeat.json").read_text())["step"] == 4


def test_only_the_trained_modules_are_in_a_checkpoint(run: Path) -> None:
    parts = {name.rpartition("/")[0]: name for name in tensors(run / LAST)}
    assert sorted(parts) == [
        "optimizer/exp_avg",
        "optimizer/exp_avg_sq",
        "trainable/domain_encoder",
        "trainable/offset_predictor",
        "trainable/weight_offsets",
    ]
    trained = {name.split("/")[-1].split(".")[0] for name in tensors(run / LAST) if "domain_encoder" in name}
    assert trained == {"clip_proj", "unet_proj", "out_proj"}


def test_each_rank_records_the_samples_of_each_step(run: Path) -> None:
    slices = [(line["step"], line["start"], line["count"]) for line in lines(run / "logs" / "rank_1.jsonl")]
    assert slices == [(1, 3, 3), (2, 9, 3), (3, 15, 3), (4, 21, 3)]


def test_ranks_use_different_noise(run: Path) -> None:
    """Conformance check 10 (docs/conformance.md)."""
    losses = [[line["loss"] for line in lines(run / "logs" / f"rank_{rank}.jsonl")] for rank in (0, 1)]
    assert not set(losses[0]) & set(losses[1])
