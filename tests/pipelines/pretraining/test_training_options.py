"""Every option of training that changes the engine or the model trains, in one process each."""

from pathlib import Path

import pytest

from tests.pipelines.pretraining.runs import E4T, LAST, engine_of, lines

pytestmark = pytest.mark.distributed

OPTIONS = {
    "offloaded optimizer, moving average of the weights": [
        "--pretrain.offload_optimizer", "true", "--pretrain.ema_decay", "0.9",
    ],
    "fp32, no gradient checkpointing, deterministic": [
        "--pretrain.precision", "fp32",
        "--pretrain.gradient_checkpointing", "false", "--pretrain.deterministic", "true",
    ],
    "low-rank offsets, profiled": ["--pretrain.offset_type", "low_rank", "--profile", "--pretrain.max_steps", "5"],
    "no offsets, no UNet features": ["--pretrain.offset_type", "none", "--pretrain.encoder_inputs", "no_unet_features"],
    "compiled": ["--pretrain.compile", "true", "--pretrain.gradient_checkpointing", "false"],
}  # fmt: skip
QUICK = ("offloaded optimizer, moving average of the weights",)
"""The options that the quick tier trains with; the others are in the long tier."""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[] if name in QUICK else [pytest.mark.long])
        for name, options in OPTIONS.items()
    ],
)
def test_every_option_trains_with_the_expected_engine_and_the_same_first_loss(
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
    assert (run / LAST / "ema").exists() == ("--pretrain.ema_decay" in options)
    assert (run / "profile" / "rank_0.json.gz").exists() == ("--profile" in options)


def test_fp16_trains_with_a_loss_scale(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    code, _, err = e4t("pretrain", "--recipe", recipe, "--pretrain.precision", "fp16")
    if code == 78 and "this device does not support pretrain.precision: fp16" in err:
        pytest.skip("DeepSpeed does not support fp16 on this device")
    assert code == 0, err
    assert engine_of(tmp_path / "runs" / "small")["fp16"]
