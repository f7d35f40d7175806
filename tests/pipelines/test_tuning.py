"""``e4t tune`` makes one concept of several images or one of each, and takes known concepts from the cache."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from e4t_errors import ConfigError
from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import LearnedToken
from encoder.errors import ModelError
from encoder.releases.index import INDEX
from encoder.releases.release import Release
from pipelines import tuning
from pipelines.tuning import ImageFile, TuneRequest, split_per_image
from tests.bases import SHIPPED

E4T = Callable[..., tuple[int, str, str]]
RELEASE = SHIPPED.parent / "faces"
QUICK = ("--release", RELEASE, "--steps", "1", "--batch-size", "2")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A red, a green and a blue image."""
    paths = [tmp_path / f"{color}.png" for color in ("red", "green", "blue")]
    for path in paths:
        Image.new("RGB", (64, 64), path.stem).save(path)
    return paths


@pytest.fixture
def request_(images: list[Path], tmp_path: Path) -> TuneRequest:
    return TuneRequest.from_files(images=[str(images[0])], output=tmp_path / "out", settings={"steps": 1})


def durations(out: str) -> list[str]:
    """Return the duration that is printed for each concept, or ``cached``."""
    return [line.split("  ")[1] for line in out.splitlines() if line.startswith("concept: ")]


def same(one: Path, other: Path) -> bool:
    return all((one / path.name).read_bytes() == path.read_bytes() for path in other.iterdir())


def learned_token(value: float) -> Concept:
    return Concept(weight_deltas={}, token=LearnedToken(torch.full((4,), value), (4,)), release="any")


def test_separate_concepts_are_tuned_per_image_and_known_ones_come_from_the_cache(
    e4t: E4T, images: list[Path], tmp_path: Path
) -> None:
    code, out, err = e4t("tune", *QUICK, "--image", *images[:2], "--separate-concepts", "--output", tmp_path / "first")
    assert code == 0, err
    assert f"loaded {RELEASE} in " in out
    assert all(duration.endswith(" s") for duration in durations(out))
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["green", "red"]
    assert not same(tmp_path / "first" / "red", tmp_path / "first" / "green")
    code, out, err = e4t("tune", *QUICK, "--image", *images, "--separate-concepts", "--output", tmp_path / "second")
    assert code == 0, err
    assert [duration == "cached" for duration in durations(out)] == [True, True, False]
    assert same(tmp_path / "first" / "red", tmp_path / "second" / "red")
    shutil.copy(images[2], tmp_path / "renamed.png")
    options = ("--image", tmp_path / "renamed.png", "--output", tmp_path / "third")
    code, out, err = e4t("tune", *QUICK, *options)
    assert (code, durations(out)) == (0, ["cached"]), "the contents of the image count, not its name"
    assert "loaded " not in out, "no model is loaded for a cached concept"
    assert Concept.load(tmp_path / "third").release == "faces 1.0.1"
    code, out, _ = e4t("tune", *QUICK, *options[:2], "--cache-gib", "0", "--output", tmp_path / "fourth")
    assert (code, durations(out)) == (0, ["cached"]), "a cache of 0 GiB still serves what it holds"


def test_everything_that_decides_a_concept_changes_its_cache_key(
    request_: TuneRequest, images: list[Path], tmp_path: Path
) -> None:
    release = Release.open(RELEASE)
    red, green, blue = (ImageFile.read(path) for path in images)
    requests = [
        request_,
        replace(request_, images=[green]),
        replace(request_, images=[red, green]),
        replace(request_, images=[green, red]),
        replace(request_, masks=[blue]),
        replace(request_, captions=["a portrait of a smiling *s"]),
        replace(request_, init_concept=learned_token(0)),
        replace(request_, init_concept=learned_token(1)),
        replace(request_, settings={"steps": 2}),
        replace(request_, settings={"steps": 1, "seed": 1}),
        replace(request_, method="dreambooth"),
    ]
    keys = [each.cache_key(release, [None, None]) for each in requests]
    keys.append(request_.cache_key(release, ["another base", None]))
    for number, change in enumerate(({"version": "2.0.0"}, {"tuning": {}})):
        folder = shutil.copytree(RELEASE, tmp_path / str(number))
        (folder / INDEX).write_text(json.dumps(json.loads((RELEASE / INDEX).read_text()) | change))
        keys.append(request_.cache_key(Release.open(folder), [None, None]))
    assert len(set(keys)) == len(keys)
    assert replace(request_, output=tmp_path / "elsewhere").cache_key(release, [None, None]) == keys[0]


def test_masks_and_captions_stay_with_their_images(images: list[Path], request_: TuneRequest) -> None:
    red, green, blue = (ImageFile.read(path) for path in images)
    both = replace(request_, images=[red, green], masks=[green, blue], captions=["one *s", "two *s"])
    first, second = split_per_image(both)
    assert (first.images, first.masks, first.captions) == ([red], [green], ["one *s"])
    assert (second.images, second.masks, second.captions) == ([green], [blue], ["two *s"])
    assert [request.output.name for request in (first, second)] == ["red", "green"]


def test_each_image_is_decoded_once(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    original = tuning.open_image

    def open_image(file: object, name: str) -> Image.Image:
        decoded.append(Path(name).stem)
        return original(file, name)

    monkeypatch.setattr(tuning, "open_image", open_image)
    paths = [str(path) for path in images]
    request = TuneRequest.from_files(images=paths[:2], masks=paths[1:], output=tmp_path / "out")
    for single in split_per_image(request):
        single.cache_key(Release.open(RELEASE))
    assert decoded == ["red", "green", "green", "blue"]


def test_two_images_of_one_name_are_refused_before_anything_is_tuned(
    e4t: E4T, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    shutil.copy(images[1], tmp_path / "sub" / "red.png")
    options = ("--image", images[0], tmp_path / "sub" / "red.png", "--separate-concepts", "--output", tmp_path / "out")
    code, _, err = e4t("tune", *QUICK, *options)
    assert code == 1
    assert "two images have the same name" in err
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_not_overwritten(request_: TuneRequest, tmp_path: Path) -> None:
    (tmp_path / "existing").mkdir()
    with pytest.raises(ModelError, match="exists; give another --output"):
        replace(request_, output=tmp_path / "existing")


def test_settings_out_of_range_are_refused_when_the_request_is_made(request_: TuneRequest) -> None:
    with pytest.raises(ConfigError, match=r"tune\.steps"):
        replace(request_, settings={"steps": -1})


@pytest.mark.parametrize("name", ["missing.png", "notes.txt"])
def test_a_file_that_is_not_an_image_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(ModelError, match=f"{name} cannot be read") as caught:
        ImageFile.read(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("concept", ["missing", "red.png"])
def test_an_initial_concept_that_is_not_a_concept_is_refused_in_one_line(
    e4t: E4T, images: list[Path], tmp_path: Path, concept: str
) -> None:
    options = ("--image", images[0], "--init-concept", tmp_path / concept, "--output", tmp_path / "out")
    code, _, err = e4t("tune", *QUICK, *options)
    assert code == 1
    assert "complete concept" in err
    assert err.count("\n") == 1
