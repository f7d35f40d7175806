"""Tests of the model card: the YAML front matter that the hub reads, and the sections."""

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
    recipe = recipe_in(
        tmp_path,
        license="cc-by-4.0",
        data_statement="Drawn from Open Peeps (CC0).",
        min_scores={"identity_similarity": 0.25},
    )
    made_run(recipe, trained, 300)
    return recipe


def parse_card(release: Release) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the front matter, and the sections by title."""
    _, front_matter, body = (release.folder / "README.md").read_text().split("---\n", 2)
    opening, *sections = body.split("\n## ")
    return yaml.safe_load(front_matter), {"": opening} | {text.split("\n")[0]: text for text in sections}


def test_a_card_has_all_sections_and_the_figure_of_the_evaluation(recipe: Recipe, tmp_path: Path) -> None:
    evaluate(
        recipe,
        Release.open(candidate_release(recipe)).content_digest,
        identity_similarity=0.3,
        reference_similarity=0.2,
    )
    release = make_release(recipe, tmp_path / "release", "1.2.0", allow_dirty=True)
    front_matter, sections = parse_card(release)
    assert front_matter["library_name"] == "e4t"
    assert front_matter["license"] == "cc-by-4.0"
    assert "base_model" not in front_matter, "a local folder is not a model on the hub"
    assert sections.keys() == {"", "Use", "Data", "Training", "Evaluation", "Limits", "Consent", "License"}
    assert 'faces 1.2.0: a domain encoder for "person"' in sections[""]
    assert "](figure.png)" in sections[""]
    assert Image.open(release.folder / "figure.png").getpixel((0, 0)) == (255, 0, 0), "the evaluation's grid"
    assert '--prompt "a portrait of a *s"' in sections["Use"]
    assert "Open Peeps" in sections["Data"]
    assert "1,200 identities" in sections["Data"]
    assert "300 steps of 16 images (19,200 samples), 2 minutes" in sections["Training"]
    assert "consent" in sections["Consent"]
    assert "cc-by-4.0" in sections["License"]
    assert sections["Evaluation"].split("\n\n", 1)[1].strip().splitlines() == [
        "Means over 2 held-out concepts with 95 % bootstrap intervals. Higher is better, except for rmse.",
        "Released because it reaches identity_similarity 0.25.",
        "",
        "| system | steps | identity similarity | reference similarity |",
        "|---|---|---|---|",
        "| base from caption | 0 | 0.000 (0.000 to 0.000) | 0.000 (0.000 to 0.000) | ",
        "| pretrained | 0 | 0.000 (0.000 to 0.000) | 0.000 (0.000 to 0.000) | ",
        "| pretrained | 15 | 0.300 (0.200 to 0.400) | 0.200 (0.100 to 0.300) |",
    ]


def test_a_card_without_an_evaluation_says_so_and_shows_the_last_training_grid(
    trained: Trained, tmp_path: Path
) -> None:
    recipe = recipe_in(tmp_path)
    run = made_run(recipe, trained, 300)
    for step, color in ((200, "red"), (300, "blue")):
        Image.new("RGB", (8, 8), color).save(run.folder / "samples" / f"step_{step:08d}.png")
    release = make_release(recipe, tmp_path / "release", "1.0.0", allow_dirty=True)
    _, sections = parse_card(release)
    assert "Not evaluated." in sections["Evaluation"]
    assert Image.open(release.folder / "figure.png").getpixel((0, 0)) == (0, 0, 255)


def test_a_card_without_any_grid_has_no_figure(trained: Trained, tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    made_run(recipe, trained, 300)
    release = make_release(recipe, tmp_path / "release", "1.0.0", allow_dirty=True)
    assert "![" not in parse_card(release)[1][""]
    assert not list(release.folder.glob("*.png"))
