from dataclasses import replace
from pathlib import Path

import pytest
from PIL import ImageChops

from data_prep.prepare.splits import split_of
from e4t_errors import ConfigError
from pipelines.config.recipe import Recipe
from pipelines.evaluation.cases import PROMPTS, choose_cases, read_prompts


def test_cases_are_held_out_and_reproducible(recipe: Recipe) -> None:
    cases = choose_cases(recipe, 1)
    assert all(split_of(case.concept, recipe.data.splits) == "test" for case in cases)
    assert [case.concept for case in cases] == [case.concept for case in choose_cases(recipe, 2)]


def test_another_seed_chooses_other_concepts(recipe: Recipe) -> None:
    other = replace(recipe, evaluate=replace(recipe.evaluate, seed=3))
    assert [case.concept for case in choose_cases(other, 1)] != [case.concept for case in choose_cases(recipe, 1)]


def test_edit_prompts_are_captions_of_other_images_which_become_the_reference_images(recipe: Recipe) -> None:
    case = choose_cases(recipe, 2)[0]
    assert (len(case.images), len(case.edit_prompts), len(case.reference_images)) == (2, 2, 2)
    assert all("*s" in prompt and "person" not in prompt for prompt in (*case.captions, *case.edit_prompts))
    pairs = [(own, other) for own in case.images for other in case.reference_images]
    assert all(ImageChops.difference(own, other).getbbox() for own, other in pairs)


def test_prompts_from_a_list_have_no_reference_images(recipe: Recipe) -> None:
    case = choose_cases(replace(recipe, evaluate=replace(recipe.evaluate, prompts="faces")), 4)[0]
    assert set(case.edit_prompts) < set(read_prompts("faces"))
    assert case.reference_images == ()


def test_a_split_with_too_few_images_is_reported(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match="has 5 images, 3 of them to tune on"):
        choose_cases(recipe, 3)


@pytest.mark.parametrize("name", sorted(path.stem for path in PROMPTS.glob("*.txt")))
def test_every_shipped_prompt_list_can_be_read(name: str) -> None:
    assert len(read_prompts(name)) >= 8


def test_an_unknown_prompt_list_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dogs: no such file, and no prompt list of e4t"):
        read_prompts("dogs")


def test_a_prompt_without_the_placeholder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# mine\n*s asleep\na cat\n")
    with pytest.raises(ConfigError, match="'a cat' lacks"):
        read_prompts(str(tmp_path / "mine.txt"))
