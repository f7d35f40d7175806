"""The distributed path, for real: several processes, gloo, DeepSpeed, and whatever may happen to them."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from encoder.pipeline import E4TPipeline
from pipelines.tracking.client import connect

E4T = Callable[..., tuple[int, str, str]]
pytestmark = [pytest.mark.distributed]
LAST = "checkpoints/step_00000004"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def engine_of(run: Path) -> dict:
    """What the newest sitting said of its engine."""
    return next(line for line in reversed(lines(run / "metrics.jsonl")) if "engine" in line)


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{file.stem}/{name}": tensor
        for file in checkpoint.rglob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def same(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same bits: weights, moments, everything."""
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Started:
    """``e4t pretrain`` on two ranks in the background."""

    def __init__(self, recipe: Path, *options: str) -> None:
        command = [sys.executable, "-m", "e4t", "pretrain", "--recipe", str(recipe), "--nproc", "2", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own command
        self.run = recipe.parent / "runs" / "small"

    def ranks(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def after_step(self, step: int) -> "Started":
        """Wait until a step is behind it."""
        record = self.run / "metrics.jsonl"
        while not (record.exists() and any(line.get("step", 0) >= step for line in lines(record))):
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        return self

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate()
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def finished(small_recipe: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that holds one undisturbed run, ``small``, of two ranks."""
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
    engine = engine_of(run)
    assert (engine["engine"], engine["world_size"], engine["zero_stage"], engine["bf16"]) == (
        "DeepSpeedEngine",
        2,
        2,
        True,
    )


def test_a_run_leaves_checkpoints_samples_a_validation_loss_and_a_heartbeat(run: Path) -> None:
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


def test_each_rank_records_which_pictures_it_took_in_which_step(run: Path) -> None:
    taken = [(line["step"], line["start"], line["count"]) for line in lines(run / "logs" / "rank_1.jsonl")]
    assert taken == [(1, 3, 3), (2, 9, 3), (3, 15, 3), (4, 21, 3)]


def test_ranks_draw_different_noise(run: Path) -> None:
    """Conformance check 10 (docs/conformance.md)."""
    losses = [[line["loss"] for line in lines(run / "logs" / f"rank_{rank}.jsonl")] for rank in (0, 1)]
    assert not set(losses[0]) & set(losses[1])


def test_a_run_is_taken_up_at_its_newest_whole_checkpoint(e4t: E4T, recipe: Path, run: Path) -> None:
    (run / "checkpoints" / "step_00000099").mkdir()  # begun, never finished
    code, out, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", "--pretrain.max_steps", "6")
    assert code == 0, err
    assert "at step 4" in out
    assert [line["step"] for line in lines(run / "metrics.jsonl") if "images_per_second" in line] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_is_left_as_it_is(e4t: E4T, recipe: Path, run: Path) -> None:
    before = (run / LAST / "COMPLETE").read_text()
    code, out, err = e4t("pretrain", "--recipe", recipe, "--nproc", "1")
    assert code == 0, err
    assert "step 4/4" not in out
    assert (run / LAST / "COMPLETE").read_text() == before


def test_a_run_of_another_recipe_is_refused_with_the_difference(e4t: E4T, recipe: Path, run: Path) -> None:
    code, _, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", "--pretrain.learning_rate", "0.5")
    assert code == 78
    assert "pretrain.learning_rate: 0.001 there, 0.5 now" in err


def test_other_shards_are_refused_unless_told(e4t: E4T, recipe: Path, run: Path) -> None:
    state = json.loads((run / LAST / "state.json").read_text())
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "state.json").write_text(json.dumps(state | {"data": state["data"] | {"dataset": "0" * 64}}))
        (checkpoint / "COMPLETE").write_text("{}")
    longer = ("pretrain", "--recipe", recipe, "--nproc", "1", "--pretrain.max_steps", "5")
    code, _, err = e4t(*longer)
    assert code == 78
    assert f"other data (set: {'0' * 64} there" in err
    code, out, err = e4t(*longer, "--allow-config-change")
    assert code == 0, err
    assert "step 5/5" in out


def test_a_signal_to_one_rank_stops_all_which_save_and_go_on_to_the_same_bits(recipe: Path, finished: Path) -> None:
    started = Started(recipe).after_step(1)
    os.kill(started.ranks()[1], signal.SIGUSR2)
    code, out, err = started.end()
    assert (code, "(SIGUSR2)" in out) == (75, True), err
    code, out, err = Started(recipe).end()
    assert code == 0, err
    assert "resuming" in out
    assert same(started.run / LAST, finished / "small" / LAST)


def test_a_run_whose_rank_is_killed_goes_on_to_the_same_bits(recipe: Path, finished: Path) -> None:
    started = Started(recipe).after_step(3)
    os.kill(started.ranks()[1], signal.SIGKILL)
    code, _, err = started.end()
    assert code == 1
    assert "ended by SIGKILL" in err
    assert "Traceback" not in err
    code, _, err = Started(recipe).end()
    assert code == 0, err
    assert same(started.run / LAST, finished / "small" / LAST)


def test_a_rank_that_waits_for_ever_ends_and_leaves_its_stack(recipe: Path) -> None:
    endless = ("--pretrain.max_steps", "1000", "--pretrain.checkpoint_every", "1000", "--pretrain.eval_every", "1000")
    started = Started(recipe, "--pretrain.step_timeout_seconds", "20", *endless).after_step(2)
    frozen = started.ranks()[1]
    os.kill(frozen, signal.SIGSTOP)
    code, _, err = started.end()
    assert code == 1
    assert "e4t: rank 0 hung for 20 s" in err
    assert "pipelines/pretraining/trainer.py" in (started.run / "logs" / "rank_0.stacks").read_text()
    assert not Path(f"/proc/{frozen}").exists()


def test_one_two_and_three_ranks_of_any_stage_continue_each_others_run(
    e4t: E4T, recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "small"
    for steps, ranks, stage in ((1, 1, 0), (2, 3, 3), (4, 2, 1)):
        options = ("--nproc", str(ranks), "--pretrain.zero_stage", str(stage), "--pretrain.max_steps", str(steps))
        code, _, err = e4t("pretrain", "--recipe", recipe, *options)
        assert code == 0, err
        engine = engine_of(run)
        assert (engine["engine"], engine["world_size"], engine["zero_stage"]) == ("DeepSpeedEngine", ranks, stage)
    taken = sorted(
        (line["step"], line["start"], line["count"])
        for record in (run / "logs").glob("rank_*.jsonl")
        for line in lines(record)
    )
    rows = [row for _, start, count in taken for row in range(start, start + count)]
    assert rows == list(range(4 * 6))
    one, other = tensors(run / LAST), tensors(finished / "small" / LAST)
    moved = max(float((one[name] - other[name]).abs().max()) for name in one if name.startswith("trainable/domain"))
    assert 0 < moved < 4 * 1e-3  # bf16 noise: Adam moves a weight by at most a learning rate a step


def test_the_gradient_of_two_ranks_is_that_of_one(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    """Conformance check 10, on the real model: after one step the first moment is a tenth of the gradient."""
    found = []
    for ranks in (1, 2):
        options = ("--nproc", str(ranks), "--pretrain.precision", "fp32", "--pretrain.max_steps", "1")
        code, _, err = e4t("pretrain", "--recipe", recipe, "--runs", tmp_path / f"runs of {ranks}", *options)
        assert code == 0, err
        checkpoint = tmp_path / f"runs of {ranks}" / "small" / "checkpoints" / "step_00000001"
        found.append(load_file(checkpoint / "optimizer" / "exp_avg.safetensors"))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-9)


def test_a_run_stops_when_its_time_is_up(e4t: E4T, recipe: Path) -> None:
    code, out, _ = e4t("pretrain", "--recipe", recipe, "--nproc", "1", "--max-minutes", "0.001")
    assert code == 75
    assert "stopped at step 1 (time is up)" in out


def test_a_run_that_is_not_finite_stops_and_names_the_pictures(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    wild = ("--pretrain.learning_rate", "1e30", "--pretrain.max_steps", "20", "--pretrain.max_consecutive_skips", "2")
    code, _, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", *wild)
    assert code == 1
    assert "2 steps in a row" in err
    record = lines(tmp_path / "runs" / "small" / "logs" / "rank_1.jsonl")
    assert [line["skipped"] for line in record[-2:]] == [True, True]
    assert (
        "is not finite; skipped (loss nan, pictures ['"
        in (tmp_path / "runs" / "small" / "logs" / "rank_1.log").read_text()
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="limits the host's memory, and the batch is on a GPU")
def test_a_batch_that_does_not_fit_is_found_before_the_first_step(recipe: Path) -> None:
    limit = 12 * 2**30
    command = [sys.executable, "-m", "e4t", "pretrain", "--recipe", str(recipe), "--pretrain.gradient_checkpointing",
               "false", "--pretrain.global_batch_size", "6000", "--pretrain.micro_batch_size", "6000"]  # fmt: skip
    done = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 78, done.stderr
    assert "out of memory with 6000 pictures of 64 pixels at once" in done.stderr
    assert "lower pretrain.micro_batch_size" in done.stderr


OPTIONS = {
    "fp32": ["--pretrain.precision", "fp32"],
    "all activations kept, deterministic": [
        "--pretrain.gradient_checkpointing", "false", "--pretrain.deterministic", "true",
    ],
    "offloaded optimizer": ["--pretrain.offload_optimizer", "true"],
    "direct offsets": ["--pretrain.offset_type", "low_rank"],
    "no offsets, no maps": ["--pretrain.offset_type", "none", "--pretrain.encoder_inputs", "no_unet_features"],
    "averaged weights": ["--pretrain.ema_decay", "0.9"],
    "compiled": ["--pretrain.compile", "true", "--pretrain.gradient_checkpointing", "false"],
    "profiled": ["--profile", "--pretrain.max_steps", "5"],
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_a_recipe_may_ask_for_trains_the_same_model(
    e4t: E4T, recipe: Path, finished: Path, tmp_path: Path, options: list[str]
) -> None:
    code, _, err = e4t("pretrain", "--recipe", recipe, *options)
    assert code == 0, err
    run = tmp_path / "runs" / "small"
    engine = engine_of(run)
    assert (engine["engine"], engine["offload"], engine["bf16"]) == (
        "DeepSpeedEngine",
        "--pretrain.offload_optimizer" in options,
        "--pretrain.precision" not in options,
    )
    first, expected = (
        next(line["loss"] for line in lines(folder / "metrics.jsonl") if "loss" in line)
        for folder in (run, finished / "small")
    )
    assert first == pytest.approx(expected, rel=0.01)
    assert (run / LAST / "averaged").exists() == ("--pretrain.ema_decay" in options)
    assert (run / "profile" / "rank_0.json.gz").exists() == ("--profile" in options)


def test_half_precision_with_a_loss_scale(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    code, _, err = e4t("pretrain", "--recipe", recipe, "--pretrain.precision", "fp16")
    if code == 78 and "this device cannot do pretrain.precision fp16" in err:
        pytest.skip("DeepSpeed finds no fp16 arithmetic on this device")
    assert code == 0, err
    assert engine_of(tmp_path / "runs" / "small")["fp16"]


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
    truth = report["systems"][-1]
    version = connect(tmp_path / "runs").get_model_version("small", "1")
    assert version.tags["evaluate_run_id"]
    assert truth["system"] == "the true pictures"
    assert truth["scores"]["truth"]["mean"] == pytest.approx(1, abs=1e-4)
    assert E4TPipeline.from_pretrained(release).release == "small 1.0.0"
