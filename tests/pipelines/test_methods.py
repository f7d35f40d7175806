"""Other methods by command, from images to images, and export and import of their concepts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from data_prep.synthetic.faces import Identity, Scene, render
from encoder.tuning.presets import METHODS

RELEASE = Path(__file__).parents[2] / "models" / "faces"
E4T = Callable[..., tuple[int, str, str]]
QUICK = ("--steps", "1", "--batch-size", "1", "--num-class-images", "0")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    person = Identity(head="afro", hair="blue", skin="tan", beard="none", accessory="none")
    paths = []
    for expression in ("smiling", "angry"):
        paths.append(tmp_path / f"{expression}.png")
        render(person, Scene(expression=expression, clothes="red", background="navy")).save(paths[-1])
    return paths


def generated(e4t: E4T, concept: Path, folder: Path) -> Image.Image:
    options = ("--prompt", "a portrait of a *s", "--count", "1", "--num-inference-steps", "2")
    code, _, err = e4t("generate", "--release", RELEASE, "--concept", concept, "--output", folder, *options)
    assert code == 0, err
    return Image.open(folder / "0000.png")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "pivotal"])
def test_a_method_tunes_on_several_images_and_generates(
    e4t: E4T, images: list[Path], tmp_path: Path, method: str
) -> None:
    concept = tmp_path / "concept"
    options = ("--method", method, "--image", *images, "--output", concept, *QUICK)
    code, _, err = e4t("tune", "--release", RELEASE, *options)
    assert code == 0, err
    assert generated(e4t, concept, tmp_path / "images").size == (64, 64)


def test_pivotal_tuning_starts_from_a_learned_embedding(e4t: E4T, images: list[Path], tmp_path: Path) -> None:
    embedding, both = tmp_path / "embedding", tmp_path / "both"
    for method, output, start in (
        ("textual-inversion", embedding, ()),
        ("pivotal", both, ("--init-concept", embedding)),
    ):
        options = ("--method", method, "--image", images[0], "--output", output, *start, *QUICK)
        code, _, err = e4t("tune", "--release", RELEASE, *options)
        assert code == 0, err
    assert generated(e4t, both, tmp_path / "images").size == (64, 64)


def test_a_learned_embedding_can_be_exported_and_imported(e4t: E4T, images: list[Path], tmp_path: Path) -> None:
    embedding, files, back = tmp_path / "embedding", tmp_path / "files", tmp_path / "back"
    commands = (
        (
            "tune",
            "--release",
            RELEASE,
            "--method",
            "textual-inversion",
            "--image",
            images[0],
            "--output",
            embedding,
            *QUICK,
        ),
        ("export", "--concept", embedding, "--output", files),
        ("import", "diffusers", "--folder", files, "--release", RELEASE, "--output", back),
    )
    for command in commands:
        code, _, err = e4t(*command)
        assert code == 0, err
    first, second = generated(e4t, embedding, tmp_path / "a"), generated(e4t, back, tmp_path / "b")
    assert ImageChops.difference(first, second).getbbox() is None


def test_exporting_an_unsupported_concept_is_refused_in_one_line(e4t: E4T, images: list[Path], tmp_path: Path) -> None:
    concept = tmp_path / "concept"
    assert e4t("tune", "--release", RELEASE, "--image", images[0], "--output", concept, *QUICK)[0] == 0
    code, _, err = e4t("export", "--concept", concept, "--output", tmp_path / "files")
    assert (code, err.count("\n"), "predicted by the domain encoder" in err) == (1, 1, True)
