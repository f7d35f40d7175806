"""Tuning by command: one concept of several pictures or one of each, and never the same twice."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import LearnedToken
from encoder.errors import ModelError
from encoder.releases.release import Release
from pipelines.tuning import TuneRequest, split_per_image
from tests.bases import SHIPPED

E4T = Callable[..., tuple[int, str, str]]
RELEASE = SHIPPED.parent / "faces"
QUICK = ("--release", RELEASE, "--steps", "1", "--batch-size", "2")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Red, green and blue."""
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "green", "blue")]
    for path in paths:
        Image.new("RGB", (64, 64), path.stem).save(path)
    return paths


@pytest.fixture
def order(pictures: list[Path], tmp_path: Path) -> TuneRequest:
    return TuneRequest(images=[str(pictures[0])], output=tmp_path / "out", settings={"steps": 1})


def spent(out: str) -> list[str]:
    """What was said of each concept's time."""
    return [line.split("  ")[1] for line in out.splitlines() if line.startswith("concept: ")]


def same(one: Path, other: Path) -> bool:
    return all((one / path.name).read_bytes() == path.read_bytes() for path in other.iterdir())


def test_each_picture_gets_a_concept_of_its_own_and_only_new_ones_are_tuned(
    e4t: E4T, pictures: list[Path], tmp_path: Path
) -> None:
    code, out, err = e4t(
        "tune", *QUICK, "--image", *pictures[:2], "--separate-concepts", "--output", tmp_path / "first"
    )
    assert code == 0, err
    assert "opened: " in out
    assert all(said.endswith(" s") for said in spent(out))
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["green", "red"]
    assert not same(tmp_path / "first" / "red", tmp_path / "first" / "green")
    code, out, err = e4t("tune", *QUICK, "--image", *pictures, "--separate-concepts", "--output", tmp_path / "second")
    assert code == 0, err
    assert [said == "tuned before" for said in spent(out)] == [True, True, False]
    assert same(tmp_path / "first" / "red", tmp_path / "second" / "red")
    shutil.copy(pictures[2], tmp_path / "called otherwise.png")
    words = ("--image", tmp_path / "called otherwise.png", "--output", tmp_path / "third")
    code, out, err = e4t("tune", *QUICK, *words)
    assert (code, spent(out)) == (0, ["tuned before"]), "what counts is the picture, not its name"
    assert "opened: " not in out, "no model is loaded for nothing"
    assert Concept.load(tmp_path / "third").release == "faces 1.0.1"
    code, out, _ = e4t("tune", *QUICK, *words[:2], "--cache-gib", "0", "--output", tmp_path / "fourth")
    assert (code, spent(out)) == (0, ["tuned before"]), "nothing is kept; what is there serves"


def test_whatever_makes_a_concept_another_makes_its_key_another(
    order: TuneRequest, pictures: list[Path], tmp_path: Path
) -> None:
    release, how = Release.open(RELEASE), ["e4t", None, None]
    start = Concept(weight_deltas={}, token=LearnedToken(torch.zeros(4), (4,)), release="any").save(tmp_path / "start")
    other = Concept(weight_deltas={}, token=LearnedToken(torch.ones(4), (4,)), release="any").save(tmp_path / "other")
    orders = [
        order,
        replace(order, images=[str(pictures[1])]),
        replace(order, images=[str(path) for path in pictures[:2]]),
        replace(order, images=[str(path) for path in pictures[1::-1]]),
        replace(order, masks=[str(pictures[2])]),
        replace(order, captions=["a portrait of a smiling *s"]),
        replace(order, start=str(start)),
        replace(order, start=str(other)),
        replace(order, settings={"steps": 2}),
        replace(order, settings={"steps": 1, "seed": 1}),
    ]
    keys = [each.cache_key(release, how) for each in orders]
    keys += [order.cache_key(release, ["dreambooth", None, None]), order.cache_key(release, ["e4t", "a base", None])]
    keys += [order.cache_key(replace(release, **said), how) for said in ({"version": "2.0.0"}, {"tuning": {}})]
    assert len(set(keys)) == len(keys)
    assert replace(order, output=tmp_path / "elsewhere").cache_key(release, how) == keys[0]


def test_masks_and_captions_go_with_their_pictures(pictures: list[Path], order: TuneRequest) -> None:
    paths = [str(path) for path in pictures]
    both = replace(order, images=paths[:2], masks=paths[1:], captions=["one *s", "two *s"])
    red, green = split_per_image(both)
    assert (red.images, red.masks, red.captions) == (paths[:1], paths[1:2], ["one *s"])
    assert (green.images, green.masks, green.captions) == (paths[1:2], paths[2:], ["two *s"])
    assert [made.output.name for made in (red, green)] == ["red", "green"]


def test_two_pictures_of_one_name_are_refused_before_anything_is_done(
    e4t: E4T, pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    shutil.copy(pictures[1], tmp_path / "sub" / "red.png")
    words = ("--image", pictures[0], tmp_path / "sub" / "red.png", "--separate-concepts", "--output", tmp_path / "out")
    code, _, err = e4t("tune", *QUICK, *words)
    assert code == 1
    assert "two pictures have the same name" in err
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(order: TuneRequest, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="exists; give another --output"):
        replace(order, output=tmp_path / "there")


@pytest.mark.parametrize("start", ["nowhere", "red.png"])
def test_a_start_that_is_no_concept_is_one_line(e4t: E4T, pictures: list[Path], tmp_path: Path, start: str) -> None:
    words = ("--image", pictures[0], "--init-concept", tmp_path / start, "--output", tmp_path / "out")
    code, _, err = e4t("tune", *QUICK, *words)
    assert code == 1
    assert "whole concept" in err
    assert err.count("\n") == 1
