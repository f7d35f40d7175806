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


def converted_pixel(image: Image.Image) -> float | tuple[int, ...] | None:
    return to_srgb(to_8bit_opaque(image)).getpixel((2, 2))


def test_sixteen_bits_are_scaled_to_eight_and_not_truncated() -> None:
    levels = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(np.asarray(to_8bit_opaque(Image.fromarray(levels))).ravel(), np.arange(256))


@pytest.mark.parametrize(("level", "dtype"), [(65_536, np.int32), (-1, np.int32)])
def test_values_beyond_sixteen_bits_are_refused(level: int, dtype: type) -> None:
    with pytest.raises(ColorError, match="more than 16 bits"):
        to_8bit_opaque(Image.fromarray(np.full((4, 4), level, dtype)))


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ColorError, match="floating-point pixels"):
        to_8bit_opaque(Image.new("F", (4, 4)))


@pytest.mark.parametrize(
    ("mode", "color"), [("RGBA", (255, 0, 0, 0)), ("LA", (0, 0)), ("RGBa", (0, 0, 0, 0)), ("PA", (0, 0))]
)
def test_transparent_pixels_become_white(mode: str, color: tuple[int, ...]) -> None:
    assert converted_pixel(colored(mode, color)) == (255, 255, 255)


def test_half_transparent_pixels_are_blended_with_white() -> None:
    assert converted_pixel(colored("RGBA", (200, 100, 0, 128))) == (227, 177, 127)


@pytest.mark.parametrize(("mode", "color"), [("1", 1), ("L", 255), ("CMYK", (0, 0, 0, 0)), ("YCbCr", (255, 128, 128))])
def test_white_is_white_in_every_mode(mode: str, color: int | tuple[int, ...]) -> None:
    assert converted_pixel(colored(mode, color)) == (255, 255, 255)


def test_lab_is_converted_by_its_definition() -> None:
    red, _, blue = np.asarray(to_srgb(to_8bit_opaque(colored("LAB", (138, 209, 195)))))[
        2, 2
    ]  # L* 54, a* 81, b* 67: red
    assert red > 245
    assert blue < 15


def test_a_profile_is_applied() -> None:
    assert converted_pixel(colored("RGB", (40, 120, 200), bgr_profile())) == pytest.approx((200, 120, 40), abs=1)


def test_white_stays_white_under_a_profile() -> None:
    assert converted_pixel(colored("RGBA", (9, 9, 9, 0), bgr_profile())) == pytest.approx((255, 255, 255), abs=1)


@pytest.mark.parametrize("icc", [None, b"", b"not a profile", bgr_profile()[:200], profile("LAB"), profile("sRGB")])
def test_values_are_unchanged_without_a_usable_profile(icc: bytes | None) -> None:
    assert converted_pixel(colored("RGB", (40, 120, 200), icc)) == (40, 120, 200)


def test_a_color_profile_does_not_affect_grayscale() -> None:
    assert converted_pixel(colored("L", 77, bgr_profile())) == (77, 77, 77)


def test_all_metadata_is_removed() -> None:
    image = colored("RGB", (1, 2, 3), bgr_profile())
    image.info |= {"comment": b"taken at home", "exif": b"Exif\0\0"}
    assert to_srgb(to_8bit_opaque(image)).info == {}


def test_srgb_profiles_are_recognized_by_name() -> None:
    assert (is_srgb(b""), is_srgb(profile("sRGB"))) == (True, True)
    assert (is_srgb(bgr_profile()), is_srgb(b"not a profile")) == (False, False)
