"""Tests of selecting the checkpoint to release: the latest, a step, or the best by a logged metric."""

import pytest

from e4t_errors import ConfigError
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.release.checkpoint_selection import select_checkpoint
from tests.pipelines.made_run import Trained, log, made_run, recipe_in


@pytest.fixture(scope="module")
def run(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = recipe_in(tmp_path_factory.mktemp("choice"))
    made_run(recipe, trained, 100, 200, 300)
    return recipe


@pytest.fixture
def recipe(run: Recipe) -> Recipe:
    """Return the recipe of a run whose validation loss was lowest in the middle."""
    losses = {100: 0.5, 200: 0.2, 250: 0.1, 300: 0.4}
    log(run, '{"engine": "DeepSpeedEngine"}', *_lines(losses), '{"step": 300, "loss": 0.1}')
    return run


def _lines(losses: dict[int, float]) -> list[str]:
    return [f'{{"step": {step}, "validation_loss": {loss}}}' for step, loss in losses.items()]


def test_the_latest_checkpoint_is_the_default(recipe: Recipe) -> None:
    assert select_checkpoint(recipe).name == "step_00000300"
    assert select_checkpoint(recipe, "latest") == select_checkpoint(recipe)


def test_best_is_the_lowest_loss_among_existing_checkpoints(recipe: Recipe) -> None:
    assert select_checkpoint(recipe, "best").name == "step_00000200", "step 250 has the lowest loss but no checkpoint"


def test_the_last_value_counts_for_a_step_that_was_logged_twice(recipe: Recipe) -> None:
    log(recipe, *_lines({100: 0.1, 200: 0.3}), *_lines({100: 0.4}))
    assert select_checkpoint(recipe, "best").name == "step_00000200"


def test_best_can_use_another_metric(recipe: Recipe) -> None:
    log(recipe, '{"step": 100, "loss": 0.1}', '{"step": 200, "loss": 0.3}')
    assert select_checkpoint(recipe, "best", metric="loss").name == "step_00000100"


def test_a_metric_that_was_not_logged_is_reported(recipe: Recipe) -> None:
    with pytest.raises(RunError, match=r"not logged accuracy at the step of a checkpoint \(100, 200, 300\)"):
        select_checkpoint(recipe, "best", metric="accuracy")


@pytest.mark.parametrize("selector", ["200", "00000200", "step_00000200"])
def test_a_step_can_be_a_number_or_a_folder_name(recipe: Recipe, selector: str) -> None:
    assert select_checkpoint(recipe, selector).name == "step_00000200"


def test_a_missing_step_is_reported_with_the_available_steps(recipe: Recipe) -> None:
    with pytest.raises(RunError, match="no complete checkpoint of step 150; available: 100, 200, 300"):
        select_checkpoint(recipe, "150")


@pytest.mark.parametrize("selector", ["oldest", "-1", "1.5", "", "../step_00000100"])
def test_an_invalid_selector_is_rejected(recipe: Recipe, selector: str) -> None:
    with pytest.raises(ConfigError, match="give latest, best, or a step"):
        select_checkpoint(recipe, selector)
