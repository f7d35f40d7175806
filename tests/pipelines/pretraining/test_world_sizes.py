"""The number of ranks and the ZeRO stage change neither the gradient nor the data order."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.pipelines.pretraining.runs import E4T, LAST, engine_of, lines, tensors

pytestmark = [pytest.mark.distributed, pytest.mark.long]


def test_a_run_resumes_on_another_number_of_ranks_and_with_another_zero_stage(
    e4t: E4T, recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "small"
    for steps, ranks, stage in ((1, 1, 0), (2, 3, 3), (4, 2, 1)):
        options = ("--nproc", str(ranks), "--pretrain.zero_stage", str(stage), "--pretrain.max_steps", str(steps))
        code, _, err = e4t("pretrain", "--recipe", recipe, *options)
        assert code == 0, err
        engine = engine_of(run)
        assert (engine["engine"], engine["world_size"], engine["zero_stage"]) == ("DeepSpeedEngine", ranks, stage)
    slices = sorted(
        (line["step"], line["start"], line["count"])
        for record in (run / "logs").glob("rank_*.jsonl")
        for line in lines(record)
    )
    rows = [row for _, start, count in slices for row in range(start, start + count)]
    assert rows == list(range(4 * 6))
    one, other = tensors(run / LAST), tensors(finished / "small" / LAST)
    moved = max(float((one[name] - other[name]).abs().max()) for name in one if name.startswith("trainable/domain"))
    assert 0 < moved < 4 * 1e-3  # bf16 noise: Adam moves a weight by at most one learning rate per step


def test_two_ranks_compute_the_gradient_of_one(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    """Conformance check 10, on the real model: after one step the first moment is a tenth of the gradient."""
    gradients = []
    for ranks in (1, 2):
        options = ("--nproc", str(ranks), "--pretrain.precision", "fp32", "--pretrain.max_steps", "1")
        code, _, err = e4t("pretrain", "--recipe", recipe, "--runs", tmp_path / f"runs of {ranks}", *options)
        assert code == 0, err
        checkpoint = tmp_path / f"runs of {ranks}" / "small" / "checkpoints" / "step_00000001"
        gradients.append(load_file(checkpoint / "optimizer" / "exp_avg.safetensors"))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-9
        )
