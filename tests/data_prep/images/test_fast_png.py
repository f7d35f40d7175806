"""The fast PNG decoder returns the same pixels as Pillow, and leaves all unusual files to Pillow."""

import contextlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_prep.images.fast_png import try_decode_png
from data_prep.images.pixels import Pixels
from tests.data_prep.corpus import COLOR, cases, chunk, encode, encode_photo, photo, png_of

pytestmark = pytest.mark.filterwarnings("ignore:::PIL\\.")


def read(data: bytes) -> Pixels | None:
    with Image.open(io.BytesIO(data)) as image:
        return try_decode_png(image, data)


def rows_of(image: Image.Image) -> bytes:
    """Return the rows as a PNG stores them, each preceded by filter type 0."""
    return b"".join(b"\0" + np.asarray(row).tobytes() for row in np.asarray(image))


@pytest.mark.parametrize("case", [case for case in cases() if case.data.startswith(b"\x89PNG")], ids=lambda c: c.name)
def test_every_file_it_decodes_has_the_pixels_that_pillow_decodes(case) -> None:
    try:
        fast = read(case.data)
    except Exception:
        return  # Pillow cannot open the file
    if fast is not None:
        with Image.open(io.BytesIO(case.data)) as image:
            assert np.array_equal(fast, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"icc_profile": b"any"}, {"dpi": (72, 72)}])
def test_a_png_of_8_bit_colors_is_decoded(options) -> None:
    image = photo(size=(301, 203))
    assert np.array_equal(read(encode(image, "PNG", **options)), np.asarray(image))


def test_every_png_filter_type_is_decoded() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 40 * 3), dtype=np.uint8)
    filtered = b"".join(bytes([kind]) + row.tobytes() for kind, row in enumerate(pixels))
    data = png_of(40, 5, 8, 2, filtered)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(read(data), np.asarray(image))


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("another format", encode_photo("JPEG")),
        ("grayscale", encode(photo().convert("L"), "PNG")),
        ("alpha", encode(photo().convert("RGBA"), "PNG")),
        ("palette", encode(photo().convert("P"), "PNG")),
        ("a transparent color", encode(photo(), "PNG", transparency=COLOR)),
        ("16 bits", png_of(2, 2, 16, 2, bytes(2 * 13))),
        ("text behind the pixels", encode_photo("PNG")[:-12] + chunk(b"tEXt", b"a\0b") + encode_photo("PNG")[-12:]),
        ("no end", encode_photo("PNG")[:-12]),
        ("something behind the end", encode_photo("PNG") + b"x"),
    ],
)
def test_all_other_files_are_left_to_pillow(what: str, data: bytes) -> None:
    assert read(data) is None, what


def test_interlaced_files_are_left_to_pillow() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 1))
    assert read(encode_photo("PNG")[:8] + header + encode_photo("PNG")[33:]) is None


def test_no_flipped_bit_is_accepted() -> None:
    data, chance = encode_photo("PNG"), random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[chance.randrange(33, len(data))] ^= 1 << chance.randrange(8)
        # Pillow does not open a file without IDAT chunks.
        with contextlib.suppress(Image.UnidentifiedImageError):
            assert read(bytes(damaged)) is None


def test_a_compressed_stream_that_ends_too_early_is_left_to_pillow() -> None:
    rows = rows_of(photo())
    for missing in (1, 193, len(rows) // 2):
        assert read(png_of(64, 48, 8, 2, rows[:-missing])) is None


def test_only_the_checksum_inside_the_compressed_stream_is_not_verified() -> None:
    stream = zlib.compress(rows_of(photo()))
    data = encode_photo("PNG")[:33] + chunk(b"IDAT", stream[:-4] + b"abcd") + chunk(b"IEND", b"")
    with Image.open(io.BytesIO(data)) as image, pytest.raises(OSError, match="broken"):
        image.load()
    assert np.array_equal(read(data), np.asarray(photo()))
