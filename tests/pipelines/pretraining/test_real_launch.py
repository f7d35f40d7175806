"""Ranks that are started as users start them: new interpreters, by ``--nproc`` and by torchrun."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.pretraining.runs import FIRST, BackgroundRun, engine_of, same

pytestmark = pytest.mark.distributed


def test_a_real_launch_of_two_ranks_trains_to_the_same_bits_as_forked_ranks(recipe: Path, finished: Path) -> None:
    started = BackgroundRun(recipe, "--pretrain.max_steps", "2", real=True)
    code, out, err = started.end()
    assert (code, "step 2/2" in out) == (0, True), err
    engine = engine_of(started.run)
    assert (engine["engine"], engine["world_size"], engine["zero_stage"]) == ("DeepSpeedEngine", 2, 2)
    assert same(started.run / FIRST, finished / "small" / FIRST)


@pytest.mark.long
def test_torchrun_starts_the_ranks_as_well(recipe: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "e4t"]
    command = [*launcher, "pretrain", "--recipe", str(recipe), "--pretrain.max_steps", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)  # noqa: S603 - our own command
    assert (result.returncode, "step 1/1" in result.stdout) == (0, True), result.stderr
    engine = engine_of(tmp_path / "runs" / "small")
    assert (engine["engine"], engine["world_size"], engine["zero_stage"]) == ("DeepSpeedEngine", 2, 2)
