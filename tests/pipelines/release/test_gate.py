"""The gate: what the recipe asks for is measured on these very weights, and reached."""

import json
import math
from pathlib import Path

import pytest

from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.release.gate import EvaluationReport, check_min_scores
from tests.pipelines.made_run import Trained, evaluate, made_run, recipe_in

WEIGHTS = "a" * 64


@pytest.fixture
def recipe(trained: Trained, tmp_path: Path) -> Recipe:
    """One that asks for something."""
    recipe = recipe_in(tmp_path, gate={"likeness": 0.5, "truth": 0.3})
    made_run(recipe, trained)
    return recipe


def checked(recipe: Recipe, **means: float) -> None:
    evaluate(recipe, WEIGHTS, **means)
    check_min_scores(recipe, EvaluationReport.for_release(recipe, WEIGHTS))


def test_what_reaches_it_passes_and_so_does_what_is_exactly_there(recipe: Recipe) -> None:
    checked(recipe, likeness=0.9, truth=0.3)


def test_one_score_below_is_enough_and_all_that_are_below_are_named(recipe: Recipe) -> None:
    with pytest.raises(RunError, match="^below publish.min_scores: truth is 0.299 of 0.3. Train further"):
        checked(recipe, likeness=0.9, truth=0.299)
    with pytest.raises(RunError, match="likeness is 0.000 of 0.5; truth is 0.100 of 0.3"):
        checked(recipe, likeness=0.0, truth=0.1)


def test_what_is_not_a_number_reaches_nothing(recipe: Recipe) -> None:
    with pytest.raises(RunError, match="likeness is nan of 0.5"):
        checked(recipe, likeness=math.nan, truth=1.0)


def test_a_score_that_was_not_measured_is_refused_with_those_that_were(recipe: Recipe) -> None:
    with pytest.raises(RunError, match="asks for truth; the evaluation measured likeness, beauty"):
        checked(recipe, likeness=0.9, beauty=1.0)


def test_an_evaluation_of_other_weights_is_none(recipe: Recipe) -> None:
    evaluate(recipe, "b" * 64, likeness=1.0, truth=1.0)
    assert EvaluationReport.for_release(recipe, WEIGHTS) is None
    with pytest.raises(RunError, match="no evaluation of this checkpoint; run `e4t evaluate` first"):
        check_min_scores(recipe, None)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"releases": {"release": "faces 1.0.0"}}'])
def test_a_report_that_is_broken_or_of_an_older_e4t_is_none(recipe: Recipe, text: str) -> None:
    (recipe.folder / "evaluation").mkdir()
    (recipe.folder / "evaluation" / "report.json").write_text(text)
    assert EvaluationReport.for_release(recipe, WEIGHTS) is None


def test_without_a_gate_nothing_is_asked(tmp_path: Path) -> None:
    check_min_scores(recipe_in(tmp_path), None)


def test_what_counts_is_the_release_after_its_last_step_wherever_it_stands(recipe: Recipe) -> None:
    evaluate(recipe, WEIGHTS, likeness=0.7)
    report = recipe.folder / "evaluation" / "report.json"
    plain = json.loads(report.read_text())
    report.write_text(json.dumps(plain | {"systems": plain["systems"][::-1]}))
    found = EvaluationReport.for_release(recipe, WEIGHTS)
    assert found
    assert found.final_scores["likeness"]["mean"] == 0.7
    assert found.num_concepts == 2
