import numpy as np
import pytest
from PIL import Image, ImageCms

from data_prep.images.color import ColorError, is_srgb, to_8bit_opaque, to_srgb
from tests.data_prep.corpus import bgr_profile


def profile(space: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def colored(mode: str, color: int | tuple[int, ...], icc: bytes | None = None) -> Image.Image:
    image = Image.new(mode, (4, 4), color)
    image.info["icc_profile"] = icc
    return image


def shown(image: Image.Image) -> float | tuple[int, ...] | None:
    return to_srgb(to_8bit_opaque(image)).getpixel((2, 2))


def test_sixteen_bits_are_scaled_to_eight_not_cut_off() -> None:
    levels = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(np.asarray(to_8bit_opaque(Image.fromarray(levels))).ravel(), np.arange(256))


@pytest.mark.parametrize(("level", "dtype"), [(65_536, np.int32), (-1, np.int32)])
def test_numbers_beyond_sixteen_bits_are_refused(level: int, dtype: type) -> None:
    with pytest.raises(ColorError, match="more than 16 bits"):
        to_8bit_opaque(Image.fromarray(np.full((4, 4), level, dtype)))


def test_floats_are_refused() -> None:
    with pytest.raises(ColorError, match="floating-point pixels"):
        to_8bit_opaque(Image.new("F", (4, 4)))


@pytest.mark.parametrize(
    ("mode", "color"), [("RGBA", (255, 0, 0, 0)), ("LA", (0, 0)), ("RGBa", (0, 0, 0, 0)), ("PA", (0, 0))]
)
def test_what_is_transparent_shows_white(mode: str, color: tuple[int, ...]) -> None:
    assert shown(colored(mode, color)) == (255, 255, 255)


def test_what_is_half_transparent_shows_half_of_it() -> None:
    assert shown(colored("RGBA", (200, 100, 0, 128))) == (227, 177, 127)


@pytest.mark.parametrize(("mode", "color"), [("1", 1), ("L", 255), ("CMYK", (0, 0, 0, 0)), ("YCbCr", (255, 128, 128))])
def test_white_is_white_in_every_mode(mode: str, color: int | tuple[int, ...]) -> None:
    assert shown(colored(mode, color)) == (255, 255, 255)


def test_lab_is_converted_by_its_definition() -> None:
    red, _, blue = np.asarray(to_srgb(to_8bit_opaque(colored("LAB", (138, 209, 195)))))[
        2, 2
    ]  # L* 54, a* 81, b* 67: red
    assert red > 245
    assert blue < 15


def test_a_profile_says_what_the_numbers_mean() -> None:
    assert shown(colored("RGB", (40, 120, 200), bgr_profile())) == pytest.approx((200, 120, 40), abs=1)


def test_white_stays_white_through_a_profile() -> None:
    assert shown(colored("RGBA", (9, 9, 9, 0), bgr_profile())) == pytest.approx((255, 255, 255), abs=1)


@pytest.mark.parametrize("icc", [None, b"", b"no profile", bgr_profile()[:200], profile("LAB"), profile("sRGB")])
def test_numbers_stand_as_they_are_without_a_profile_that_says_otherwise(icc: bytes | None) -> None:
    assert shown(colored("RGB", (40, 120, 200), icc)) == (40, 120, 200)


def test_a_profile_for_colours_does_nothing_to_grey() -> None:
    assert shown(colored("L", 77, bgr_profile())) == (77, 77, 77)


def test_nothing_of_the_metadata_is_left() -> None:
    image = colored("RGB", (1, 2, 3), bgr_profile())
    image.info |= {"comment": b"taken at home", "exif": b"Exif\0\0"}
    assert to_srgb(to_8bit_opaque(image)).info == {}


def test_srgb_is_known_by_its_name() -> None:
    assert (is_srgb(b""), is_srgb(profile("sRGB"))) == (True, True)
    assert (is_srgb(bgr_profile()), is_srgb(b"no profile")) == (False, False)
