import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml


def test_the_status_of_a_run_without_jobs_lists_its_outputs(
    recipe: Path, e4t: Callable[..., tuple[int, str, str]]
) -> None:
    run = recipe.parent / "runs" / "small"
    (run / "checkpoints" / "step_00000002").mkdir(parents=True)
    (run / "recipe.yaml").write_text(recipe.read_text())
    (run / "heartbeat.json").write_text(json.dumps({"step": 3, "time": 0.0, "host": "node7"}))
    code, out, _ = e4t("status", run)
    shards = yaml.safe_load(recipe.read_text())["data"]["output"]
    assert code == 0
    assert f"shards     {shards}: " in out
    assert "step 3 of 4" in out and "on node7; latest checkpoint 2" in out
    assert "evaluation not yet written\nrelease    not yet written" in out


def test_a_run_with_its_last_checkpoint_is_reported_as_done(
    recipe: Path, e4t: Callable[..., tuple[int, str, str]]
) -> None:
    run = recipe.parent / "runs" / "small"
    for name in ("checkpoints/step_00000004", "evaluation", "release"):
        (run / name).mkdir(parents=True)
    (run / "recipe.yaml").write_text(recipe.read_text())
    (run / "heartbeat.json").write_text(json.dumps({"step": 4, "time": 0.0, "host": "node7"}))
    out = e4t("status", run)[1]
    assert "training   all 4 steps done; latest checkpoint 4" in out
    assert f"evaluation {run}/evaluation\nrelease    {run}/release" in out


def test_the_status_of_a_failed_job_has_its_error(
    recipe: Path, tmp_path: Path, e4t: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "sbatch": "echo 7",
        "scontrol": "echo JobId=7 JobState=FAILED Reason=NonZeroExitCode",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert e4t("submit", "slurm", "--recipe", recipe, "--stage", "pretrain")[0] == 0
    logs = tmp_path / "runs" / "small" / "submissions" / "001-pretrain" / "logs"
    (logs / "pretrain-7.log").write_text("step 1/4\ne4t: the recipe is wrong\nsrun: error: task 0: Exited\n")
    out = e4t("status", tmp_path / "runs" / "small")[1]
    assert "001-pretrain: pretrain  7  FAILED (NonZeroExitCode)\n    e4t: the recipe is wrong\n" in out


def test_a_folder_that_is_not_a_run_folder_is_rejected(
    tmp_path: Path, e4t: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = e4t("status", tmp_path)
    assert code == 1
    assert "is not a run folder" in err


def test_a_run_of_an_earlier_version_is_rejected_in_one_line(
    recipe: Path, e4t: Callable[..., tuple[int, str, str]]
) -> None:
    run = recipe.parent / "runs" / "small"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(recipe.read_text().replace("max_steps:", "steps:"))
    code, _, err = e4t("status", run)
    assert code == 78
    assert err == f"e4t: recipe {run}/recipe.yaml uses old names: pretrain.steps is now pretrain.max_steps; rename it\n"
