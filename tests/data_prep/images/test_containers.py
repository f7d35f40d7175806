import pytest
from PIL import Image, PngImagePlugin

from data_prep.images.containers import holds_only_pixels
from tests.data_prep.corpus import chunk, jpeg_with, photo, png_of, png_with, replaced, saved, whole


@pytest.mark.parametrize(
    ("format_name", "data"),
    [
        ("PNG", whole("PNG")),
        ("PNG", png_with(b"sRGB", b"\0")),
        ("JPEG", whole("JPEG")),
        ("JPEG", whole("JPEG", progressive=True)),
        ("JPEG", whole("JPEG", restart_marker_blocks=1)),
        ("JPEG", saved(photo(), "JPEG", keep_rgb=True)),
        ("WEBP", whole("WEBP")),
        ("WEBP", whole("WEBP", lossless=True)),
    ],
)
def test_a_plain_picture_holds_only_pixels(format_name: str, data: bytes) -> None:
    assert holds_only_pixels(data, format_name, allow_icc_profile=False)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_a_profile_has_to_be_allowed(format_name: str) -> None:
    data = whole(format_name, icc_profile=b"profile" * 20)
    assert holds_only_pixels(data, format_name, allow_icc_profile=True)
    assert not holds_only_pixels(data, format_name, allow_icc_profile=False)


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "me")
    return info


@pytest.mark.parametrize(
    ("format_name", "data"),
    [
        pytest.param("PNG", whole("PNG", pnginfo=text()), id="png, text"),
        pytest.param("PNG", png_with(b"tIME", bytes(7)), id="png, time"),
        pytest.param("PNG", png_with(b"prVT", b"anything"), id="png, private"),
        pytest.param("PNG", png_with(b"tRNS", bytes(6)), id="png, transparent"),
        pytest.param("PNG", whole("PNG") + b"\0", id="png, longer"),
        pytest.param("PNG", whole("PNG")[:-12], id="png, no end"),
        pytest.param("PNG", png_of(1, 1, 16, 2, bytes(7)), id="png, 16 bits"),
        pytest.param("PNG", png_of(1, 1, 8, 3, bytes(2), chunk(b"PLTE", bytes(3))), id="png, palette"),
        pytest.param("JPEG", jpeg_with(0xFE, b"taken at home"), id="jpeg, comment"),
        pytest.param("JPEG", jpeg_with(0xE1, b"Exif\0\0II*\0\x08\0\0\0"), id="jpeg, exif"),
        pytest.param("JPEG", jpeg_with(0xED, b"Photoshop 3.0\0"), id="jpeg, iptc"),
        pytest.param("JPEG", jpeg_with(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1abc"), id="jpeg, thumbnail"),
        pytest.param("JPEG", whole("JPEG") + b"\0", id="jpeg, longer"),
        pytest.param("JPEG", whole("JPEG")[:-2], id="jpeg, no end"),
        pytest.param("WEBP", whole("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0"), id="webp, exif"),
        pytest.param("WEBP", whole("WEBP", xmp=b"<x/>"), id="webp, xmp"),
        pytest.param("WEBP", whole("WEBP") + b"\0", id="webp, longer"),
        pytest.param("WEBP", replaced(whole("WEBP"), 4, bytes(4)), id="webp, of no length"),
        pytest.param("GIF", whole("GIF"), id="gif"),
        pytest.param("PNG", Image.new("RGB", (1, 1)).tobytes(), id="not even a file"),
    ],
)
def test_whatever_else_there_is_shows(format_name: str, data: bytes) -> None:
    assert not holds_only_pixels(data, format_name, allow_icc_profile=False)
