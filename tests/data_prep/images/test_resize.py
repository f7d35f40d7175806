"""A part of a picture at another size: as Pillow's LANCZOS would have it, whichever way it takes."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from data_prep.images.resize import crop_and_resize
from tests.data_prep.images.test_transform import decibels, noise, photograph


def wanted(image: Image.Image, box: tuple[float, float, float, float], side: int) -> np.ndarray:
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS, box=box), dtype=float)


@pytest.mark.parametrize("side", [40, 101, 151, 299, 301, 500])
def test_it_looks_like_lanczos_between_a_fraction_and_a_multiple_of_the_size(side: int) -> None:
    image, box = photograph((403, 310)), (60, 5, 360, 305)
    for picture in (image, np.asarray(image)):
        got = np.asarray(crop_and_resize(picture, box, side), dtype=float)
        assert decibels(got, wanted(image, box, side)) > (47 if side == 40 else 58), side


@pytest.mark.parametrize("times", [2, 3, 5])
def test_what_is_a_whole_number_of_times_too_large_becomes_the_mean(times: int) -> None:
    image = photograph((403, 310))
    side = 300 // times
    mean = np.asarray(image, float)[5:305, 60:360].reshape(side, times, side, times, 3).mean(axis=(1, 3))
    for picture in (image, np.asarray(image)):
        assert np.abs(np.asarray(crop_and_resize(picture, (60, 5, 360, 305), side), float) - mean).max() < 0.6


def test_pixels_and_a_picture_of_them_give_the_same_bytes() -> None:
    image, box = photograph((403, 310)), (60, 5, 360, 305)
    for side in (40, 100, 300, 500):
        assert crop_and_resize(image, box, side).tobytes() == crop_and_resize(np.asarray(image), box, side).tobytes()


def test_the_size_that_it_has_keeps_every_pixel() -> None:
    image = noise((30, 20))
    for picture in (image, np.asarray(image)):
        assert np.array_equal(np.asarray(crop_and_resize(picture, (7, 0, 27, 20), 20)), np.asarray(image)[:, 7:27])


def test_edges_between_pixels_are_kept() -> None:
    image, box = photograph((403, 310)), (60.5, 5.25, 360.5, 305.25)
    assert decibels(np.asarray(crop_and_resize(image, box, 100), dtype=float), wanted(image, box, 100)) > 100


@pytest.mark.parametrize("mode", ["L", "CMYK", "LAB"])
def test_other_modes_keep_their_channels(mode: str) -> None:
    image = photograph((64, 64)).convert("L" if mode == "L" else "RGB")
    image = image.convert(mode) if mode != "LAB" else Image.merge("LAB", image.split())
    small = crop_and_resize(image, (0, 0, 64, 64), 20)
    assert (small.mode, small.size) == (mode, (20, 20))


def test_the_bytes_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256()
    for side in (77, 130, 200, 400):
        digest.update(crop_and_resize(noise((256, 256), side), (0, 0, 256, 256), side).tobytes())
    assert digest.hexdigest() == "3f6137a012aabe8e9ab9523209ac98740a6eedda7153edd24f45d0b04c30dec1"
