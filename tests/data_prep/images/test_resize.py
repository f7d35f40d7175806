"""Cropping and resizing are close to Pillow's LANCZOS, whichever method is used."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from data_prep.images.resize import crop_and_resize
from tests.data_prep.images.test_transform import decibels, noise, photograph


def expected(image: Image.Image, box: tuple[float, float, float, float], side: int) -> np.ndarray:
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS, box=box), dtype=float)


@pytest.mark.parametrize(("side", "least"), [(40, 47), (101, 50), (151, 50), (299, 50), (301, 58), (500, 58)])
def test_results_are_close_to_lanczos_at_all_scales(side: int, least: float) -> None:
    image, box = photograph((403, 310)), (60, 5, 360, 305)
    for source in (image, np.asarray(image)):
        got = np.asarray(crop_and_resize(source, box, side), dtype=float)
        assert decibels(got, expected(image, box, side)) > least, side


@pytest.mark.parametrize("times", [2, 3, 5])
def test_integer_scales_give_the_mean(times: int) -> None:
    image = photograph((403, 310))
    side = 300 // times
    mean = np.asarray(image, float)[5:305, 60:360].reshape(side, times, side, times, 3).mean(axis=(1, 3))
    for source in (image, np.asarray(image)):
        assert np.abs(np.asarray(crop_and_resize(source, (60, 5, 360, 305), side), float) - mean).max() < 0.6


def test_an_array_and_an_image_give_the_same_bytes() -> None:
    image, box = photograph((403, 310)), (60, 5, 360, 305)
    for side in (40, 100, 300, 500):
        assert crop_and_resize(image, box, side).tobytes() == crop_and_resize(np.asarray(image), box, side).tobytes()


def test_the_same_size_keeps_every_pixel() -> None:
    image = noise((30, 20))
    for source in (image, np.asarray(image)):
        assert np.array_equal(np.asarray(crop_and_resize(source, (7, 0, 27, 20), 20)), np.asarray(image)[:, 7:27])


def test_fractional_box_edges_are_respected() -> None:
    image, box = photograph((403, 310)), (60.5, 5.25, 360.5, 305.25)
    assert decibels(np.asarray(crop_and_resize(image, box, 100), dtype=float), expected(image, box, 100)) > 100


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
    assert digest.hexdigest() == "393780b06969d9bbbc354cb2efb88c9918e85f8b23a749c8638fd5922204e6c8"
