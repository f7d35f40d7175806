"""Runs that are stopped by a signal, killed, hung or out of time end as a scheduler expects and continue exactly."""

import os
import signal
from pathlib import Path

import pytest

from tests.pipelines.pretraining.runs import E4T, LAST, BackgroundRun, same

pytestmark = pytest.mark.distributed


def test_a_run_with_a_warned_and_then_a_killed_rank_resumes_to_the_same_bits(recipe: Path, finished: Path) -> None:
    warned = BackgroundRun(recipe).after_steps(1)
    os.kill(warned.ranks()[1], signal.SIGUSR2)
    code, out, err = warned.end()
    assert (code, "(SIGUSR2)" in out) == (75, True), err
    killed = BackgroundRun(recipe).after_steps(1)
    os.kill(killed.ranks()[1], signal.SIGKILL)
    code, out, err = killed.end()
    assert (code, "resuming" in out) == (1, True), err
    assert "ended by SIGKILL" in err
    assert "Traceback" not in err
    code, _, err = BackgroundRun(recipe).end()
    assert code == 0, err
    assert same(killed.run / LAST, finished / "small" / LAST)


@pytest.mark.long
def test_a_run_with_a_killed_rank_that_was_really_launched_resumes_to_the_same_bits(
    recipe: Path, finished: Path
) -> None:
    started = BackgroundRun(recipe, real=True).after_steps(3)
    os.kill(started.ranks()[1], signal.SIGKILL)
    code, _, err = started.end()
    assert code == 1
    assert "ended by SIGKILL" in err
    assert "Traceback" not in err
    code, _, err = BackgroundRun(recipe).end()  # the real run continues in forked ranks
    assert code == 0, err
    assert same(started.run / LAST, finished / "small" / LAST)


@pytest.mark.long
def test_the_watchdog_ends_a_rank_that_hangs_and_writes_its_stacks(recipe: Path) -> None:
    unlimited = ("--pretrain.max_steps", "1000", "--pretrain.checkpoint_every", "1000", "--pretrain.eval_every", "1000")
    started = BackgroundRun(recipe, "--pretrain.step_timeout_seconds", "20", *unlimited).after_steps(2)
    stopped = started.ranks()[1]
    os.kill(stopped, signal.SIGSTOP)
    code, _, err = started.end()
    assert code == 1
    assert "e4t: rank 0 hung for 20 s" in err
    assert "pipelines/pretraining/trainer.py" in (started.run / "logs" / "rank_0.stacks").read_text()
    assert not Path(f"/proc/{stopped}").exists()


def test_a_run_stops_at_its_time_limit(e4t: E4T, recipe: Path) -> None:
    code, out, _ = e4t("pretrain", "--recipe", recipe, "--nproc", "1", "--max-minutes", "0.001")
    assert code == 75
    assert "stopped at step 1 (time limit reached)" in out
