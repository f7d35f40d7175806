"""Tests of the gate: a release must reach the minimum scores of its recipe in an evaluation of its weights."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.evaluation.report import Report
from pipelines.release.gate import check_min_scores, load_evaluation
from tests.pipelines.made_run import Trained, evaluate, made_run, recipe_in

WEIGHTS = "a" * 64


@pytest.fixture
def recipe(trained: Trained, tmp_path: Path) -> Recipe:
    """Return a recipe with minimum scores."""
    recipe = recipe_in(tmp_path, min_scores={"identity_similarity": 0.5, "reference_similarity": 0.3})
    made_run(recipe, trained)
    return recipe


def evaluate_and_check(recipe: Recipe, **means: float) -> None:
    evaluate(recipe, WEIGHTS, **means)
    check_min_scores(recipe, load_evaluation(recipe, WEIGHTS))


def test_scores_at_or_above_the_minimum_pass(recipe: Recipe) -> None:
    evaluate_and_check(recipe, identity_similarity=0.9, reference_similarity=0.3)


def test_one_score_below_its_minimum_fails_and_every_such_score_is_named(recipe: Recipe) -> None:
    with pytest.raises(RunError, match="^below publish.min_scores: reference_similarity is 0.299 of 0.3; train longer"):
        evaluate_and_check(recipe, identity_similarity=0.9, reference_similarity=0.299)
    with pytest.raises(RunError, match="identity_similarity is 0.000 of 0.5; reference_similarity is 0.100 of 0.3"):
        evaluate_and_check(recipe, identity_similarity=0.0, reference_similarity=0.1)


def test_nan_reaches_no_minimum(recipe: Recipe) -> None:
    with pytest.raises(RunError, match="identity_similarity is nan of 0.5"):
        evaluate_and_check(recipe, identity_similarity=math.nan, reference_similarity=1.0)


def test_a_required_score_that_was_not_measured_fails(recipe: Recipe) -> None:
    with pytest.raises(
        RunError, match="requires reference_similarity, but the evaluation measured only identity_similarity, rmse"
    ):
        evaluate_and_check(recipe, identity_similarity=0.9, rmse=1.0)


def test_an_evaluation_of_other_weights_is_ignored(recipe: Recipe) -> None:
    evaluate(recipe, "b" * 64, identity_similarity=1.0, reference_similarity=1.0)
    assert load_evaluation(recipe, WEIGHTS) is None
    with pytest.raises(RunError, match="no evaluation of this checkpoint; run `e4t evaluate` first"):
        check_min_scores(recipe, None)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"releases": {"release": "faces 1.0.0"}}'])
def test_a_report_that_cannot_be_parsed_is_ignored(recipe: Recipe, text: str) -> None:
    (recipe.folder / "evaluation").mkdir()
    (recipe.folder / "evaluation" / "report.json").write_text(text)
    assert load_evaluation(recipe, WEIGHTS) is None


def test_a_recipe_without_minimum_scores_needs_no_evaluation(tmp_path: Path) -> None:
    check_min_scores(recipe_in(tmp_path), None)


def test_the_release_after_its_last_step_counts_wherever_its_row_is(recipe: Recipe) -> None:
    evaluate(recipe, WEIGHTS, identity_similarity=0.7)
    folder = recipe.folder / "evaluation"
    report = Report.load(folder)
    assert report
    replace(report, rows=report.rows[::-1]).save(folder)
    loaded = load_evaluation(recipe, WEIGHTS)
    assert loaded
    assert loaded.final_scores["identity_similarity"].mean == 0.7
    assert len(loaded.concepts) == 2
