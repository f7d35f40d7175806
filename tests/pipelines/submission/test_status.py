import json
from collections.abc import Callable
from pathlib import Path

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
    assert "release    none yet" in out


def test_another_folder_is_refused(tmp_path: Path, e4t: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = e4t("status", tmp_path)
    assert code == 1
    assert "is no run's folder" in err
