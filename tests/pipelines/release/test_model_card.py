"""The model card: a head that the hub reads, and whatever somebody must know before using a release."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from encoder.releases.release import Release
from pipelines.config.recipe import Recipe
from pipelines.release.build import candidate_release, make_release
from tests.pipelines.made_run import Trained, evaluate, made_run, recipe_in


@pytest.fixture
def recipe(trained: Trained, tmp_path: Path) -> Recipe:
    recipe = recipe_in(tmp_path, licence="cc-by-4.0", data="Drawn from Open Peeps (CC0).", gate={"likeness": 0.25})
    made_run(recipe, trained, 300)
    return recipe


def parts(release: Release) -> tuple[dict[str, Any], dict[str, str]]:
    """Head, and sections by title."""
    _, head, body = (release.folder / "README.md").read_text().split("---\n", 2)
    opening, *sections = body.split("\n## ")
    return yaml.safe_load(head), {"": opening} | {text.split("\n")[0]: text for text in sections}


def test_a_card_has_use_data_numbers_figure_limits_consent_and_licence(recipe: Recipe, tmp_path: Path) -> None:
    evaluate(recipe, Release.open(candidate_release(recipe)).content_digest, likeness=0.3, truth=0.2)
    release = make_release(recipe, tmp_path / "release", "1.2.0", allow_dirty=True)
    head, said = parts(release)
    assert head["library_name"] == "e4t"
    assert head["license"] == "cc-by-4.0"
    assert "base_model" not in head, "a local folder is no model on the hub"
    assert said.keys() == {"", "Use", "Data", "Training", "Numbers", "Limits", "Consent", "Licence"}
    assert 'faces 1.2.0: a domain encoder for "person"' in said[""]
    assert "](figure.png)" in said[""]
    assert Image.open(release.folder / "figure.png").getpixel((0, 0)) == (255, 0, 0), "the evaluation's grid"
    assert '--prompt "a portrait of a *s"' in said["Use"]
    assert "Open Peeps" in said["Data"]
    assert "1,200 identities" in said["Data"]
    assert "300 steps of 16 pictures (19,200 seen), 2 minutes" in said["Training"]
    assert "consent" in said["Consent"]
    assert "cc-by-4.0" in said["Licence"]
    assert said["Numbers"].split("\n\n", 1)[1].strip().splitlines() == [
        "Means over 2 held-out concepts, with their 95 % bootstrap intervals; 1 is best.",
        "Released because it reaches likeness 0.25.",
        "",
        "| system | steps | likeness | truth |",
        "|---|---|---|---|",
        "| base from caption | 0 | 0.000 (0.000 to 0.000) | 0.000 (0.000 to 0.000) | ",
        "| pretrained | 0 | 0.000 (0.000 to 0.000) | 0.000 (0.000 to 0.000) | ",
        "| pretrained | 15 | 0.300 (0.200 to 0.400) | 0.200 (0.100 to 0.300) |",
    ]


def test_without_an_evaluation_it_says_so_and_shows_the_last_grid_of_training(trained: Trained, tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    run = made_run(recipe, trained, 300)
    for step, colour in ((200, "red"), (300, "blue")):
        Image.new("RGB", (8, 8), colour).save(run.folder / "samples" / f"step_{step:08d}.png")
    release = make_release(recipe, tmp_path / "release", "1.0.0", allow_dirty=True)
    _, said = parts(release)
    assert "Not evaluated." in said["Numbers"]
    assert Image.open(release.folder / "figure.png").getpixel((0, 0)) == (0, 0, 255)


def test_without_any_picture_it_names_none(trained: Trained, tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    made_run(recipe, trained, 300)
    release = make_release(recipe, tmp_path / "release", "1.0.0", allow_dirty=True)
    assert "![" not in parts(release)[1][""]
    assert not list(release.folder.glob("*.png"))
