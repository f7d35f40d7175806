"""Results are made once, shared by ranks, and never taken for those of other settings."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import ImageChops

from encoder.concepts.concept_tokens import LearnedToken
from encoder.releases.release import Release
from pipelines.config.evaluation import BASE, RELEASE, System
from pipelines.config.recipe import Recipe
from pipelines.evaluation import runner as work
from pipelines.evaluation.runner import Comparison
from tests.hub_server import Hub, files_in


@pytest.fixture
def comparison(recipe: Recipe, release: Path, tmp_path: Path) -> Comparison:
    return Comparison(recipe, recipe.compare.systems, release, tmp_path / "out")


def painted(comparison: Comparison) -> list[bytes]:
    """Every picture of every result, in order."""
    results = (comparison.results.load(system, case) for system in comparison.systems for case in comparison.cases)
    return [image.tobytes() for result in results for images in result.images.values() for image in images]


def test_ranks_share_the_concepts_and_make_what_one_makes(
    recipe: Recipe, release: Path, comparison: Comparison, tmp_path: Path
) -> None:
    comparison.run(0, 2)
    assert comparison.num_missing() == len(comparison.systems)
    comparison.run(1, 2)
    alone = Comparison(recipe, recipe.compare.systems, release, tmp_path / "alone")
    alone.run(0, 1)
    assert painted(alone) == painted(comparison)


def test_nothing_is_made_twice(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison.run(0, 1)
    monkeypatch.setattr(work, "personalise", None)
    comparison.run(0, 1)


def test_what_was_interrupted_is_made_and_the_rest_is_kept(comparison: Comparison, tmp_path: Path) -> None:
    comparison.run(0, 1)
    whole = painted(comparison)
    broken = tmp_path / "out" / "results" / "e4t" / comparison.cases[0].concept
    broken.rename(broken.with_name(f".{broken.name}.partial"))
    assert comparison.num_missing() == 1
    comparison.run(0, 1)
    assert painted(comparison) == whole


def test_pivotal_tuning_takes_up_the_inversions_word_and_its_seconds(comparison: Comparison) -> None:
    comparison.run(0, 1)
    inversion, pivotal = comparison.systems[1:3]
    case = comparison.cases[0]
    before, after = (comparison.results.load(system, case) for system in (inversion, pivotal))
    assert isinstance(before.concept.token, LearnedToken)
    assert after.seconds[1] > before.seconds[2] > before.seconds[1] > 0


def test_other_settings_other_results(recipe: Recipe, release: Path, comparison: Comparison) -> None:
    comparison.run(0, 1)
    inversion = comparison.systems[1]
    slower = replace(inversion, settings={**inversion.settings, "embedding_learning_rate": 1e-4})
    systems = [slower if system is inversion else system for system in comparison.systems]
    changed = Comparison(recipe, systems, release, comparison.output)
    due = [system.name for system in changed.systems if changed.missing_cases(system, changed.cases)]
    assert due == ["Textual Inversion", "Textual Inversion + DreamBooth"]


def test_a_system_without_method_paints_the_domain_word(recipe: Recipe, release: Path, tmp_path: Path) -> None:
    plain = Comparison(recipe, (System(name="plain", method="none"),), release, tmp_path / "out")
    untrained = Comparison(recipe, (System(name="at 0 steps", method="e4t"),), release, tmp_path / "out")
    pictures = []
    for comparison in (plain, untrained):
        comparison.run(0, 1)
        pictures.append(comparison.results.load(comparison.systems[0], comparison.cases[0]).images[0][0])
    assert ImageChops.difference(*pictures).getbbox() is None


def test_a_system_may_start_from_a_release_on_the_hub(recipe: Recipe, release: Path, tmp_path: Path, hub: Hub) -> None:
    hub.put("me/faces", files_in(release))
    systems = [System(name="theirs", method="e4t", init=start) for start in ("me/faces", RELEASE, BASE)]
    starts = [system.init for system in Comparison(recipe, systems, release, tmp_path / "out").systems]
    assert Release.open(starts[0]).id == "faces 1.0.1"
    assert starts[1:] == [str(release), BASE]
