"""A run that has reached its last step exits at once, and an unfinished one does not."""

import logging
from pathlib import Path

import pytest

from encoder.backbone.backbone import Backbone
from pipelines.config.recipe import Recipe
from pipelines.errors import EXIT_OK
from pipelines.pretraining.pretrain import RunOptions, pretrain
from pipelines.pretraining.run_folder import Run
from tests.pipelines.made_run import Trained, made_run, recipe_in


class ModelLoadedError(Exception):
    """Stands for the start of training."""


@pytest.fixture(autouse=True)
def _single_rank_that_cannot_load_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise ModelLoadedError

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(Backbone, "load", load)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return recipe_in(tmp_path)


def finished_run(recipe: Recipe, trained: Trained) -> Run:
    last_step = recipe.pretrain.max_steps
    return made_run(recipe, trained, last_step - 1000, last_step)


def test_a_finished_run_exits_without_loading_a_model(
    recipe: Recipe, trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "e4t")
    run = finished_run(recipe, trained)
    caplog.clear()
    assert pretrain(recipe, RunOptions()) == EXIT_OK
    assert caplog.messages == [f"{run.folder} has already reached step 30000; nothing to do"]


def test_a_run_that_was_never_tracked_is_not_tracked_when_it_is_finished(recipe: Recipe, trained: Trained) -> None:
    run = finished_run(recipe, trained)
    pretrain(recipe, RunOptions())
    assert not (run.folder / "tracking").exists()


def test_a_run_without_a_checkpoint_of_the_last_step_is_not_finished(recipe: Recipe, trained: Trained) -> None:
    made_run(recipe, trained, recipe.pretrain.max_steps - 1)
    with pytest.raises(ModelLoadedError):
        pretrain(recipe, RunOptions())


def test_a_run_whose_last_checkpoint_is_damaged_is_not_finished(recipe: Recipe, trained: Trained) -> None:
    run = finished_run(recipe, trained)
    state = run.folder / "checkpoints" / "step_00030000" / "state.json"
    state.write_text(state.read_text() + " ")
    with pytest.raises(ModelLoadedError):
        pretrain(recipe, RunOptions())
