"""Resuming a run: from which checkpoint, and with which changes it is refused."""

import json
from pathlib import Path

import pytest

from tests.pipelines.pretraining.runs import E4T, LAST, lines

pytestmark = pytest.mark.distributed


def test_a_run_resumes_from_its_latest_complete_checkpoint(e4t: E4T, recipe: Path, run: Path) -> None:
    (run / "checkpoints" / "step_00000099").mkdir()  # incomplete
    code, out, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", "--pretrain.max_steps", "5")
    assert code == 0, err
    assert "at step 4" in out
    assert [line["step"] for line in lines(run / "metrics.jsonl") if "images_per_second" in line] == [1, 2, 3, 4, 5]


def test_a_finished_run_is_not_changed(e4t: E4T, recipe: Path, run: Path) -> None:
    before = (run / LAST / "COMPLETE").read_text()
    code, out, err = e4t("pretrain", "--recipe", recipe, "--nproc", "1")
    assert code == 0, err
    assert "step 4/4" not in out
    assert (run / LAST / "COMPLETE").read_text() == before


def test_a_run_of_another_recipe_is_refused_with_the_difference(e4t: E4T, recipe: Path, run: Path) -> None:
    code, _, err = e4t("pretrain", "--recipe", recipe, "--nproc", "2", "--pretrain.learning_rate", "0.5")
    assert code == 78
    assert "pretrain.learning_rate: 0.001 before, 0.5 now" in err


def test_other_data_are_refused_unless_changes_are_allowed(e4t: E4T, recipe: Path, run: Path) -> None:
    state = json.loads((run / LAST / "state.json").read_text())
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "state.json").write_text(json.dumps(state | {"data": state["data"] | {"dataset": "0" * 64}}))
        (checkpoint / "COMPLETE").write_text("{}")
    longer = ("pretrain", "--recipe", recipe, "--nproc", "1", "--pretrain.max_steps", "5")
    code, _, err = e4t(*longer)
    assert code == 78
    assert f"other data (dataset: {'0' * 64} in the checkpoint" in err
    code, out, err = e4t(*longer, "--allow-config-change")
    assert code == 0, err
    assert "step 5/5" in out


def test_a_run_folder_of_an_earlier_version_is_refused_in_one_line(e4t: E4T, recipe: Path, run: Path) -> None:
    settings = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(settings.replace("max_steps:", "steps:"))
    code, _, err = e4t("pretrain", "--recipe", recipe, "--nproc", "1")
    assert code == 78
    assert "holds a run of an earlier version of e4t" in err
    assert err.count("\n") == 1


def test_a_checkpoint_of_an_earlier_version_is_refused_in_one_line(e4t: E4T, recipe: Path, run: Path) -> None:
    state = json.loads((run / LAST / "state.json").read_text())
    (run / LAST / "state.json").write_text(json.dumps(state | {"format": 1}))
    (run / LAST / "COMPLETE").write_text("{}")
    code, _, err = e4t("pretrain", "--recipe", recipe, "--nproc", "1", "--pretrain.max_steps", "5")
    assert code == 78
    assert "has format 1 and this version of e4t reads format 2" in err
    assert err.count("\n") == 1
