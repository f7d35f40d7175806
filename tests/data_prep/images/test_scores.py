import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from data_prep.errors import DataError
from data_prep.images.scores import blur, compute_scores, passes_filter
from e4t_errors import ConfigError

FUNCTIONS = """
limit = 3

def red(image):
    return image.getpixel((0, 0))[0]

def paint(image):
    image.paste("blue", (0, 0, *image.size))
    return 1

def broken(image):
    raise KeyError("a\\nlong story")

def nothing(image):
    return None

def infinite(image):
    return float("inf")

def wide(metadata):
    return metadata["width"] > limit
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a user module ``our_scores`` importable."""
    (tmp_path / "our_scores.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    if "our_scores" in sys.modules:
        monkeypatch.delitem(sys.modules, "our_scores")


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def test_a_blurred_image_scores_lower() -> None:
    sharp = noise()
    assert blur(sharp.filter(ImageFilter.GaussianBlur(1))) < blur(sharp) / 10


def test_blur_is_the_variance_of_the_laplacian() -> None:
    dot = np.zeros((5, 5), np.uint8)
    dot[2, 2] = 100
    # The interior values are -400 once, 100 four times and 0 four times; their mean is 0.
    assert blur(Image.fromarray(dot).convert("RGB")) == pytest.approx((400**2 + 4 * 100**2) / 9)


def test_an_image_without_interior_pixels_scores_0() -> None:
    assert blur(Image.new("RGB", (2, 2))) == 0


@pytest.mark.usefixtures("functions")
def test_scores_are_returned_by_name() -> None:
    image = Image.new("RGB", (8, 8), (7, 0, 0))
    assert compute_scores(("blur", "our_scores:red"), image, "a.jpg") == {"blur": 0.0, "our_scores:red": 7.0}


@pytest.mark.usefixtures("functions")
def test_a_score_function_cannot_change_the_image() -> None:
    image = Image.new("RGB", (8, 8), (7, 0, 0))
    assert compute_scores(("our_scores:paint", "our_scores:red"), image, "a.jpg")["our_scores:red"] == 7
    assert image.getpixel((0, 0)) == (7, 0, 0)


@pytest.mark.usefixtures("functions")
def test_a_filter_function_decides_by_the_metadata() -> None:
    assert [passes_filter("our_scores:wide", {"width": width}, "a.jpg") for width in (3, 4)] == [False, True]


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("name", ["our_scores:broken", "our_scores:nothing", "our_scores:infinite"])
def test_a_failing_score_names_function_and_image_in_one_line(name: str) -> None:
    with pytest.raises(DataError) as caught:
        compute_scores((name,), noise(), "cats/a.jpg")
    assert name in str(caught.value)
    assert "cats/a.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("functions")
def test_a_failing_filter_function_reports_its_error() -> None:
    with pytest.raises(DataError, match=r"filter_fn: our_scores:wide failed for cats/a.jpg: KeyError: 'width'"):
        passes_filter("our_scores:wide", {}, "cats/a.jpg")


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("name", ["no_such_module:red", "our_scores:no_such_function", "our_scores:limit"])
def test_a_name_that_is_not_a_function_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        compute_scores((name,), noise(), "a.jpg")
