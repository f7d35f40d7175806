"""The distributed path, for real: two processes, gloo, DeepSpeed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from encoder.pipeline import E4TPipeline

E4T = Callable[..., tuple[int, str, str]]
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(small_recipe: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that holds one finished run, ``small``, of two ranks."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe | {"runs": str(folder / "runs")}))
    command = [sys.executable, "-m", "e4t", "pretrain", "--recipe", str(recipe), "--nproc", "2"]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own command
    return folder / "runs"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The finished run, for the recipe of the same test to take up."""
    shutil.copytree(finished, tmp_path / "runs", dirs_exist_ok=True)
    folder = tmp_path / "runs" / "small"
    settings = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings | {"runs": str(tmp_path / "runs")}))
    return folder


def test_two_ranks_train_in_a_deepspeed_engine_of_the_recipes_stage(run: Path) -> None:
    engine = lines(run)[0]
    assert (engine["engine"], engine["world_size"], engine["zero_stage"], engine["bf16"]) == (
        "DeepSpeedEngine",
        2,
        2,
        True,
    )


def test_another_stage_is_what_trains_when_the_recipe_names_it(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    code, out, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", "--pretrain.zero_stage", "1")
    assert code == 0, err
    assert lines(tmp_path / "runs" / "small")[0]["zero_stage"] == 1
    assert "step 4/4  loss" in out
    assert "images/s  ETA" in out


def test_a_run_leaves_checkpoints_samples_and_a_validation_loss(run: Path) -> None:
    assert (run / "checkpoints" / "step_00000004" / "COMPLETE").exists()
    assert (run / "samples" / "step_00000004.png").exists()
    assert lines(run)[-1]["validation_loss"] > 0


def test_only_the_trained_modules_are_in_a_checkpoint(run: Path) -> None:
    trainable = run / "checkpoints" / "step_00000004" / "trainable"
    assert sorted(path.stem for path in trainable.iterdir()) == ["domain_encoder", "offset_predictor", "weight_offsets"]
    encoder = load_file(trainable / "domain_encoder.safetensors")
    assert {name.partition(".")[0] for name in encoder} == {"from_clip", "from_unet", "to_embedding"}


def test_a_run_is_taken_up_at_its_newest_complete_checkpoint(e4t: E4T, recipe: Path, run: Path) -> None:
    (run / "checkpoints" / "step_00000099").mkdir()  # begun, never finished
    code, out, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", "--pretrain.steps", "6")
    assert code == 0, err
    assert "at step 4" in out
    assert [line["step"] for line in lines(run) if "images_per_second" in line] == [1, 2, 3, 4, 5, 6]


def test_a_run_of_another_recipe_is_refused_with_the_difference(e4t: E4T, recipe: Path, run: Path) -> None:
    code, _, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", "--pretrain.learning_rate", "0.5")
    assert code == 78
    assert "pretrain.learning_rate: 0.001 there, 0.5 now" in err


def test_from_a_run_to_pictures_by_the_commands(
    e4t: E4T, recipe: Path, run: Path, shards: Path, tmp_path: Path
) -> None:
    picture = next((shards.parent / "faces").glob("*/000.png"))
    release, concept, made = tmp_path / "release", tmp_path / "concept", tmp_path / "pictures"
    commands = (
        ("release", "--recipe", recipe, "--version", "1.0.0", "--output", release),
        ("tune", "--release", release, "--image", picture, "--steps", "1", "--output", concept),
        ("generate", "--release", release, "--concept", concept, "--prompt", "*s", "--count", "1", "--output", made),
        ("evaluate", "--recipe", recipe, "--release", release, "--output", tmp_path / "evaluation"),
    )
    for command in commands:
        code, out, err = e4t(*command)
        assert code == 0, err
        assert command[0] != "release" or "models:/small/1  alias candidate" in out
    assert (made / "0000.png").exists()
    assert (tmp_path / "evaluation" / "grid.png").exists()
    report = json.loads((tmp_path / "evaluation" / "report.json").read_text())
    assert report["systems"]["the true pictures"]["identity"] == pytest.approx(1, abs=1e-4)
    assert E4TPipeline.from_pretrained(release).release == "small 1.0.0"
