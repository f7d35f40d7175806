"""Tests of running a comparison: ranks, resumption, and reuse of results."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import ImageChops

from encoder.concepts.concept_tokens import LearnedToken
from encoder.releases.release import Release
from pipelines.config.evaluation import BASE, RELEASE, System
from pipelines.config.recipe import Recipe
from pipelines.evaluation import runner
from pipelines.evaluation.runner import Comparison
from tests.hub_server import Hub, files_in


@pytest.fixture
def comparison(recipe: Recipe, release: Path, tmp_path: Path) -> Comparison:
    return Comparison(recipe, recipe.compare.systems, release, tmp_path / "out")


def load_pixels(comparison: Comparison) -> list[bytes]:
    """Return the pixels of every image of every result, in order."""
    results = (comparison.results.load(system, case) for system in comparison.systems for case in comparison.cases)
    return [image.tobytes() for result in results for images in result.images.values() for image in images]


def test_two_ranks_split_the_concepts_and_compute_the_same_results_as_one(
    recipe: Recipe, release: Path, comparison: Comparison, tmp_path: Path
) -> None:
    comparison.run(0, 2)
    assert comparison.num_missing() == len(comparison.systems)
    comparison.run(1, 2)
    single = Comparison(recipe, recipe.compare.systems, release, tmp_path / "single")
    single.run(0, 1)
    assert load_pixels(single) == load_pixels(comparison)


def test_existing_results_are_not_computed_again(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison.run(0, 1)
    monkeypatch.setattr(runner, "tune_and_sample", None)
    comparison.run(0, 1)
    monkeypatch.setattr(runner, "run_processes", None)
    runner.run_local(comparison)


def test_an_interrupted_result_is_computed_again_and_others_are_kept(comparison: Comparison, tmp_path: Path) -> None:
    comparison.run(0, 1)
    expected = load_pixels(comparison)
    broken = tmp_path / "out" / "results" / "e4t" / comparison.cases[0].concept
    broken.rename(broken.with_name(f".{broken.name}.partial"))
    assert comparison.num_missing() == 1
    comparison.run(0, 1)
    assert load_pixels(comparison) == expected


def test_pivotal_tuning_continues_from_the_token_and_time_of_textual_inversion(comparison: Comparison) -> None:
    comparison.run(0, 1)
    inversion, pivotal = comparison.systems[1:3]
    case = comparison.cases[0]
    before, after = (comparison.results.load(system, case) for system in (inversion, pivotal))
    assert isinstance(before.concept.token, LearnedToken)
    assert after.seconds[1] > before.seconds[2] > before.seconds[1] > 0


def test_changed_settings_invalidate_the_results_of_dependent_systems(
    recipe: Recipe, release: Path, comparison: Comparison
) -> None:
    comparison.run(0, 1)
    inversion = comparison.systems[1]
    slower = replace(inversion, settings={**inversion.settings, "embedding_learning_rate": 1e-4})
    systems = [slower if system is inversion else system for system in comparison.systems]
    changed = Comparison(recipe, systems, release, comparison.output)
    missing = [system.name for system in changed.systems if changed.missing_cases(system, changed.cases)]
    assert missing == ["Textual Inversion", "Textual Inversion + DreamBooth"]


def test_a_system_without_a_method_samples_the_domain_word(recipe: Recipe, release: Path, tmp_path: Path) -> None:
    plain = Comparison(recipe, (System(name="plain", method="none"),), release, tmp_path / "out")
    untrained = Comparison(recipe, (System(name="at 0 steps", method="e4t"),), release, tmp_path / "out")
    images = []
    for comparison in (plain, untrained):
        comparison.run(0, 1)
        images.append(comparison.results.load(comparison.systems[0], comparison.cases[0]).images[0][0])
    assert ImageChops.difference(*images).getbbox() is None


def test_a_system_can_be_initialized_from_a_release_on_the_hub(
    recipe: Recipe, release: Path, tmp_path: Path, hub: Hub
) -> None:
    hub.put("me/faces", files_in(release))
    systems = [System(name=init, method="e4t", init=init) for init in ("me/faces", RELEASE, BASE)]
    inits = [system.init for system in Comparison(recipe, systems, release, tmp_path / "out").systems]
    assert Release.open(inits[0]).id == "faces 1.0.1"
    assert inits[1:] == [str(release), BASE]
