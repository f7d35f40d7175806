import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml


def test_a_run_without_jobs_says_what_its_folders_hold(recipe: Path, e4t: Callable[..., tuple[int, str, str]]) -> None:
    run = recipe.parent / "runs" / "small"
    (run / "checkpoints" / "step_00000002").mkdir(parents=True)
    (run / "recipe.yaml").write_text(recipe.read_text())
    (run / "heartbeat.json").write_text(json.dumps({"step": 3, "time": 0.0, "host": "node7"}))
    code, out, _ = e4t("status", run)
    shards = yaml.safe_load(recipe.read_text())["data"]["output"]
    assert code == 0
    assert f"shards     {shards}: " in out
    assert "step 3 of 4" in out and "on node7; newest checkpoint 2" in out
    assert "evaluation none yet\nrelease    none yet" in out


def test_a_run_with_its_last_checkpoint_has_ended(recipe: Path, e4t: Callable[..., tuple[int, str, str]]) -> None:
    run = recipe.parent / "runs" / "small"
    for made in ("checkpoints/step_00000004", "evaluation", "release"):
        (run / made).mkdir(parents=True)
    (run / "recipe.yaml").write_text(recipe.read_text())
    (run / "heartbeat.json").write_text(json.dumps({"step": 4, "time": 0.0, "host": "node7"}))
    out = e4t("status", run)[1]
    assert "training   all 4 steps done; newest checkpoint 4" in out
    assert f"evaluation {run}/evaluation\nrelease    {run}/release" in out


def test_of_a_job_that_failed_the_reason_is_said(
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


def test_another_folder_is_refused(tmp_path: Path, e4t: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = e4t("status", tmp_path)
    assert code == 1
    assert "is no run's folder" in err
