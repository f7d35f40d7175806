import pytest
from PIL import Image, PngImagePlugin

from data_prep.images.containers import holds_only_pixels
from tests.data_prep.corpus import chunk, encode, encode_photo, jpeg_with, overwrite, photo, png_of, png_with


@pytest.mark.parametrize(
    ("format_name", "data"),
    [
        ("PNG", encode_photo("PNG")),
        ("PNG", png_with(b"sRGB", b"\0")),
        ("JPEG", encode_photo("JPEG")),
        ("JPEG", encode_photo("JPEG", progressive=True)),
        ("JPEG", encode_photo("JPEG", restart_marker_blocks=1)),
        ("JPEG", encode(photo(), "JPEG", keep_rgb=True)),
        ("WEBP", encode_photo("WEBP")),
        ("WEBP", encode_photo("WEBP", lossless=True)),
    ],
)
def test_a_plain_image_holds_only_pixels(format_name: str, data: bytes) -> None:
    assert holds_only_pixels(data, format_name, allow_icc_profile=False)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_a_profile_must_be_allowed_explicitly(format_name: str) -> None:
    data = encode_photo(format_name, icc_profile=b"profile" * 20)
    assert holds_only_pixels(data, format_name, allow_icc_profile=True)
    assert not holds_only_pixels(data, format_name, allow_icc_profile=False)


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "me")
    return info


@pytest.mark.parametrize(
    ("format_name", "data"),
    [
        pytest.param("PNG", encode_photo("PNG", pnginfo=text()), id="png, text"),
        pytest.param("PNG", png_with(b"tIME", bytes(7)), id="png, time"),
        pytest.param("PNG", png_with(b"prVT", b"anything"), id="png, private"),
        pytest.param("PNG", png_with(b"tRNS", bytes(6)), id="png, transparent"),
        pytest.param("PNG", encode_photo("PNG") + b"\0", id="png, longer"),
        pytest.param("PNG", encode_photo("PNG")[:-12], id="png, no end"),
        pytest.param("PNG", png_of(1, 1, 16, 2, bytes(7)), id="png, 16 bits"),
        pytest.param("PNG", png_of(1, 1, 8, 3, bytes(2), chunk(b"PLTE", bytes(3))), id="png, palette"),
        pytest.param("JPEG", jpeg_with(0xFE, b"taken at home"), id="jpeg, comment"),
        pytest.param("JPEG", jpeg_with(0xE1, b"Exif\0\0II*\0\x08\0\0\0"), id="jpeg, exif"),
        pytest.param("JPEG", jpeg_with(0xED, b"Photoshop 3.0\0"), id="jpeg, iptc"),
        pytest.param("JPEG", jpeg_with(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1abc"), id="jpeg, thumbnail"),
        pytest.param("JPEG", encode_photo("JPEG") + b"\0", id="jpeg, longer"),
        pytest.param("JPEG", encode_photo("JPEG")[:-2], id="jpeg, no end"),
        pytest.param("WEBP", encode_photo("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0"), id="webp, exif"),
        pytest.param("WEBP", encode_photo("WEBP", xmp=b"<x/>"), id="webp, xmp"),
        pytest.param("WEBP", encode_photo("WEBP") + b"\0", id="webp, longer"),
        pytest.param("WEBP", overwrite(encode_photo("WEBP"), 4, bytes(4)), id="webp, of no length"),
        pytest.param("GIF", encode_photo("GIF"), id="gif"),
        pytest.param("PNG", Image.new("RGB", (1, 1)).tobytes(), id="not even a file"),
    ],
)
def test_any_other_content_is_detected(format_name: str, data: bytes) -> None:
    assert not holds_only_pixels(data, format_name, allow_icc_profile=False)
