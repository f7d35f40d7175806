"""Steps that fail: a loss that is not finite, and a batch that does not fit into memory."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.pipelines.pretraining.runs import E4T, lines

pytestmark = pytest.mark.distributed


def test_a_run_ends_after_consecutive_non_finite_steps_and_logs_their_images(
    e4t: E4T, recipe: Path, tmp_path: Path
) -> None:
    diverging = (
        "--pretrain.learning_rate",
        "1e30",
        "--pretrain.max_steps",
        "20",
        "--pretrain.max_consecutive_skips",
        "2",
    )
    code, _, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", *diverging)
    assert code == 1
    assert "2 steps in a row" in err
    record = lines(tmp_path / "runs" / "small" / "logs" / "rank_1.jsonl")
    assert [line["skipped"] for line in record[-2:]] == [True, True]
    assert (
        "step 2: non-finite loss or gradient: step skipped (loss nan, images ['"
        in (tmp_path / "runs" / "small" / "logs" / "rank_1.log").read_text()
    )


def test_weights_that_are_not_finite_are_never_saved(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    diverging = ("--pretrain.learning_rate", "1e39", "--pretrain.max_steps", "2", "--pretrain.max_grad_norm", "0")
    code, _, err = e4t("pretrain", "--recipe", recipe, *diverging)
    assert code == 1
    assert "holds values that are not finite (NaN or infinite), and no checkpoint was written" in err
    assert "lower pretrain.learning_rate" in err
    assert not list((tmp_path / "runs" / "small" / "checkpoints").glob("step_*"))


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="limits the host's memory, and the batch is on a GPU")
def test_a_batch_that_does_not_fit_into_memory_is_refused_before_the_first_step(recipe: Path) -> None:
    limit = 8 * 2**30
    command = [sys.executable, "-m", "e4t", "pretrain", "--recipe", str(recipe), "--pretrain.gradient_checkpointing",
               "false", "--pretrain.global_batch_size", "6000", "--pretrain.micro_batch_size", "6000"]  # fmt: skip
    result = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert result.returncode == 78, result.stderr
    assert "out of memory with a micro-batch of 6000 images at 64 pixels" in result.stderr
    assert "lower pretrain.micro_batch_size" in result.stderr
