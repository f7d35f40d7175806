import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from data_prep.images.crops import (
    FACE_MARGIN,
    _face_detector,
    apply_exif_orientation,
    bbox_crop_box,
    center_crop_box,
    crop_box,
    expand_to_square,
    face_crop_box,
    random_crop_box,
    to_stored_coords,
    upright_size,
)
from data_prep.records import Record, Scalar
from e4t_errors import ConfigError


def box_in(left: Scalar, top: Scalar, right: Scalar, bottom: Scalar) -> dict[str, Scalar]:
    return {"left": left, "top": top, "right": right, "bottom": bottom}


def drawn_face(size: tuple[int, int], center: tuple[int, int], radius: int) -> Image.Image:
    """Draw what Haar features respond to: dark eyes and mouth, light nose and cheeks."""
    image = Image.new("L", size, 120)
    draw, (x, y), unit = ImageDraw.Draw(image), center, radius / 100
    draw.ellipse((x - 80 * unit, y - 110 * unit, x + 80 * unit, y + 110 * unit), fill=210)
    for side in (-1, 1):
        eye = x + side * 35 * unit
        draw.ellipse((eye - 20 * unit, y - 38 * unit, eye + 20 * unit, y - 12 * unit), fill=90)
        draw.ellipse((eye - 8 * unit, y - 32 * unit, eye + 8 * unit, y - 16 * unit), fill=20)
        draw.line((eye - 22 * unit, y - 48 * unit, eye + 22 * unit, y - 48 * unit), fill=50, width=round(8 * unit))
    draw.polygon([(x, y - 20 * unit), (x - 12 * unit, y + 25 * unit), (x + 12 * unit, y + 25 * unit)], fill=235)
    draw.line((x - 14 * unit, y + 28 * unit, x + 14 * unit, y + 28 * unit), fill=130, width=round(6 * unit))
    draw.ellipse((x - 30 * unit, y + 50 * unit, x + 30 * unit, y + 66 * unit), fill=80)
    return image.filter(ImageFilter.GaussianBlur(3 * unit)).convert("RGB")


def test_the_center_crop_is_centered() -> None:
    assert center_crop_box((31, 20)) == (5, 0, 25, 20)
    assert center_crop_box((20, 31)) == (0, 5, 20, 25)


def test_a_random_square_has_the_maximum_size_and_lies_inside() -> None:
    for key in map(str, range(200)):
        left, top, right, bottom = random_crop_box((100, 37), key)
        assert (right - left, top, bottom) == (37, 0, 37)
        assert 0 <= left <= 63


def test_random_squares_reach_both_ends() -> None:
    lefts = {random_crop_box((24, 20), str(key))[0] for key in range(100)}
    assert lefts == {0, 1, 2, 3, 4}


def test_a_random_square_depends_on_the_key_only() -> None:
    assert random_crop_box((20, 1000), "cat-1") == (0, 265, 20, 285) == random_crop_box((20, 1000), "cat-1")


def test_a_square_image_has_only_one_random_square() -> None:
    assert random_crop_box((20, 20), "a") == (0, 0, 20, 20)


def test_the_square_around_a_box_has_its_longer_side_and_its_center() -> None:
    assert expand_to_square((100, 100), (40, 50, 50, 70)) == (35, 50, 55, 70)


def test_the_square_around_a_box_is_shifted_into_the_image() -> None:
    assert expand_to_square((100, 80), (90, 0, 100, 40)) == (60, 0, 100, 40)


def test_the_square_around_a_box_is_not_larger_than_the_image() -> None:
    assert expand_to_square((100, 80), (0, 10, 100, 60)) == (10, 0, 90, 80)


def test_the_square_around_a_box_contains_it_if_the_image_is_large_enough() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        width, height = (int(side) for side in rng.integers(20, 200, 2))
        left, top = rng.uniform(0, width - 2), rng.uniform(0, height - 2)
        box = (left, top, min(width, left + rng.uniform(1, 50)), min(height, top + rng.uniform(1, 50)))
        square = expand_to_square((width, height), box)
        assert square is not None
        side = square[2] - square[0]
        assert side == square[3] - square[1]
        assert min(square) >= 0
        assert square[2] <= width
        assert square[3] <= height
        if side < min(width, height):
            assert square[0] <= box[0]
            assert square[1] <= box[1]
            assert square[2] >= box[2]
            assert square[3] >= box[3]


def test_a_margin_enlarges_the_square() -> None:
    assert expand_to_square((100, 100), (40, 40, 60, 60), margin=1.5) == (35, 35, 65, 65)


def test_box_columns_may_hold_text() -> None:
    assert bbox_crop_box((100, 100), box_in("10", "10.0", 30, 30.0)) == (10, 10, 30, 30)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"left": 1, "top": 1, "right": 5},
        box_in(None, 1, 5, 5),
        box_in("", 1, 5, 5),
        box_in("left", 1, 5, 5),
        box_in(False, 0, True, 5),
        box_in(float("nan"), 1, 5, 5),
        box_in(0, 0, float("inf"), 5),
        box_in(5, 1, 5, 5),
        box_in(9, 1, 5, 5),
        box_in(31, 1, 40, 5),
        box_in(-9, -9, 0, 5),
    ],
)
def test_an_invalid_box_gives_the_center_crop(columns: dict[str, Scalar]) -> None:
    assert bbox_crop_box((31, 20), columns) == center_crop_box((31, 20))


def test_the_crop_mode_selects_the_square() -> None:
    record = Record(key="k", identity="k", source="k", location=(), columns=box_in(0, 0, 8, 8))
    assert crop_box("box", (31, 20), record) == (0, 0, 8, 8)
    assert crop_box("random", (31, 20), record) == random_crop_box((31, 20), "k")
    assert crop_box("center", (31, 20), record) == center_crop_box((31, 20))


@pytest.mark.parametrize("orientation", range(10))
def test_a_box_of_the_upright_image_is_mapped_to_the_stored_one(orientation: int) -> None:
    stored = Image.fromarray(np.arange(30 * 20, dtype=np.uint16).reshape(20, 30))
    upright, box = apply_exif_orientation(stored, orientation), (3, 5, 10, 17)
    assert upright.size == upright_size(stored.size, orientation)
    cropped = apply_exif_orientation(stored.crop(to_stored_coords(box, upright.size, orientation)), orientation)
    assert np.array_equal(np.asarray(cropped), np.asarray(upright.crop(box)))


def test_the_square_around_a_face_contains_the_head() -> None:
    pytest.importorskip("cv2")
    left, top, right, bottom = face_crop_box(drawn_face((1200, 700), (880, 300), 120))
    assert left < 880 - 96 < 880 + 96 < right
    assert top < 300 - 110 < 300 + 110 < bottom
    assert 120 * FACE_MARGIN < right - left < 500


def test_the_largest_of_two_faces_is_used() -> None:
    pytest.importorskip("cv2")
    image = drawn_face((1000, 500), (250, 250), 60)
    image.paste(drawn_face((500, 500), (250, 250), 150), (500, 0))
    left, _, right, _ = face_crop_box(image)
    assert left < 750 < right
    assert left > 400


def test_an_image_without_a_face_gets_the_center_crop() -> None:
    pytest.importorskip("cv2")
    assert face_crop_box(Image.new("RGB", (300, 200), "green")) == center_crop_box((300, 200))


def test_without_opencv_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    _face_detector.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'e4t\[face\]'"):
        face_crop_box(Image.new("RGB", (300, 200)))
