"""Which checkpoint is released: the newest, a step, or the best by what was logged."""

import pytest

from e4t import ConfigError
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
    """Of a run whose validation loss was least in the middle."""
    losses = {100: 0.5, 200: 0.2, 250: 0.1, 300: 0.4}
    log(run, '{"engine": "DeepSpeedEngine"}', *_lines(losses), '{"step": 300, "loss": 0.1}')
    return run


def _lines(losses: dict[int, float]) -> list[str]:
    return [f'{{"step": {step}, "validation_loss": {loss}}}' for step, loss in losses.items()]


def test_without_a_word_it_is_the_newest(recipe: Recipe) -> None:
    assert select_checkpoint(recipe).name == "step_00000300"


def test_the_best_is_the_least_of_those_that_are_there(recipe: Recipe) -> None:
    assert select_checkpoint(recipe, "best").name == "step_00000200", "250 has the least loss and no checkpoint"


def test_a_step_that_was_done_twice_counts_as_the_last_time(recipe: Recipe) -> None:
    log(recipe, *_lines({100: 0.1, 200: 0.3}), *_lines({100: 0.4}))
    assert select_checkpoint(recipe, "best").name == "step_00000200"


def test_the_best_may_be_by_another_number(recipe: Recipe) -> None:
    log(recipe, '{"step": 100, "loss": 0.1}', '{"step": 200, "loss": 0.3}')
    assert select_checkpoint(recipe, "best", metric="loss").name == "step_00000100"


def test_a_number_that_nobody_logged_is_said(recipe: Recipe) -> None:
    with pytest.raises(RunError, match=r"no beauty at a step of its checkpoints \(100, 200, 300\)"):
        select_checkpoint(recipe, "best", metric="beauty")


@pytest.mark.parametrize("which", ["200", "00000200", "step_00000200"])
def test_a_step_may_be_named_as_people_do(recipe: Recipe, which: str) -> None:
    assert select_checkpoint(recipe, which).name == "step_00000200"


def test_a_step_that_is_not_there_lists_those_that_are(recipe: Recipe) -> None:
    with pytest.raises(RunError, match="no complete checkpoint of step 150; there are 100, 200, 300"):
        select_checkpoint(recipe, "150")


@pytest.mark.parametrize("which", ["oldest", "-1", "1.5", "", "../step_00000100"])
def test_what_is_no_step_is_refused(recipe: Recipe, which: str) -> None:
    with pytest.raises(ConfigError, match="give newest, best, or a step"):
        select_checkpoint(recipe, which)
