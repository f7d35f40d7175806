"""The distributed path, for real: two processes, gloo, DeepSpeed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from encoder.pipeline import E4TPipeline

E4T = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.distributed


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", [1, 2])
def test_two_ranks_train_in_a_deepspeed_engine_of_the_recipes_stage(
    e4t: E4T, recipe: Path, tmp_path: Path, stage: int
) -> None:
    code, out, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", "--pretrain.zero_stage", str(stage))
    assert code == 0, err
    run = tmp_path / "runs" / "small"
    engine = lines(run)[0]
    assert (engine["engine"], engine["world_size"], engine["zero_stage"], engine["bf16"]) == (
        "DeepSpeedEngine",
        2,
        stage,
        True,
    )
    assert "step 4/4  loss" in out
    assert (run / "checkpoints" / "step_00000004" / "COMPLETE").exists()
    assert (run / "samples" / "step_00000004.png").exists()


def test_only_the_trained_modules_are_in_a_checkpoint(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    code, _, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2")
    assert code == 0, err
    trainable = tmp_path / "runs" / "small" / "checkpoints" / "step_00000004" / "trainable"
    assert sorted(path.name for path in trainable.iterdir()) == [
        "domain_encoder.safetensors", "offset_predictor.safetensors", "weight_offsets.safetensors",
    ]  # fmt: skip
    assert {name.partition(".")[0] for name in load_file(trainable / "domain_encoder.safetensors")} == {
        "from_clip", "from_unet", "to_embedding",
    }  # fmt: skip


def test_a_run_is_taken_up_at_its_newest_complete_checkpoint(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    e4t("pretrain", "--recipe", recipe, "--nproc", "2")
    run = tmp_path / "runs" / "small"
    (run / "checkpoints" / "step_00000099").mkdir()  # begun, never finished
    code, out, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", "--pretrain.steps", "6")
    assert code == 0, err
    assert "resuming from" in out
    assert "at step 4" in out
    steps = [line["step"] for line in lines(run) if "images_per_second" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_run_of_another_recipe_is_refused_with_the_difference(e4t: E4T, recipe: Path) -> None:
    e4t("pretrain", "--recipe", recipe, "--nproc", "2")
    code, _, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", "--pretrain.learning_rate", "0.5")
    assert code == 78
    assert "pretrain.learning_rate: 0.001 there, 0.5 now" in err


def test_from_pretraining_to_a_picture_by_the_commands(e4t: E4T, recipe: Path, shards: Path, tmp_path: Path) -> None:
    picture = next((shards.parent / "faces").glob("*/000.png"))
    release, concept, made = tmp_path / "release", tmp_path / "concept", tmp_path / "pictures"
    commands = (
        ("pretrain", "--recipe", recipe, "--nproc", "2"),
        ("release", "--recipe", recipe, "--version", "1.0.0", "--output", release),
        ("tune", "--release", release, "--image", picture, "--steps", "1", "--output", concept),
        ("generate", "--release", release, "--concept", concept, "--prompt", "*s", "--count", "1", "--output", made),
        ("evaluate", "--recipe", recipe, "--release", release, "--output", tmp_path / "evaluation"),
    )  # fmt: skip
    for command in commands:
        code, out, err = e4t(*command)
        assert code == 0, err
        if command[0] == "release":
            assert "models:/small/1  alias candidate" in out
    assert (made / "0000.png").exists()
    report = json.loads((tmp_path / "evaluation" / "report.json").read_text())
    assert report["systems"]["the true pictures"]["identity"] == pytest.approx(1, abs=1e-4)
    assert E4TPipeline.from_pretrained(release).release == "small 1.0.0"
