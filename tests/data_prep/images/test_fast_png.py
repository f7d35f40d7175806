"""The fast way through a PNG gives what Pillow gives, and leaves to Pillow whatever is not plain."""

import contextlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_prep.images.fast_png import Pixels, try_decode_png
from tests.data_prep.corpus import COLOR, cases, chunk, encode, encode_photo, photo, png_of

pytestmark = pytest.mark.filterwarnings("ignore:::PIL\\.")


def read(data: bytes) -> Pixels | None:
    with Image.open(io.BytesIO(data)) as image:
        return try_decode_png(image, data)


def rows_of(image: Image.Image) -> bytes:
    """As a PNG holds them, each behind a zero."""
    return b"".join(b"\0" + np.asarray(row).tobytes() for row in np.asarray(image))


@pytest.mark.parametrize("case", [case for case in cases() if case.data.startswith(b"\x89PNG")], ids=lambda c: c.name)
def test_it_takes_no_file_that_pillow_does_not_and_gives_the_same_pixels(case) -> None:
    try:
        fast = read(case.data)
    except Exception:
        return  # Pillow does not open it
    if fast is not None:
        with Image.open(io.BytesIO(case.data)) as image:
            assert np.array_equal(fast, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"icc_profile": b"any"}, {"dpi": (72, 72)}])
def test_a_png_of_8_bit_colours_is_plain(options) -> None:
    image = photo(size=(301, 203))
    assert np.array_equal(read(encode(image, "PNG", **options)), np.asarray(image))


def test_every_filter_is_undone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 40 * 3), dtype=np.uint8)
    filtered = b"".join(bytes([kind]) + row.tobytes() for kind, row in enumerate(pixels))
    data = png_of(40, 5, 8, 2, filtered)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(read(data), np.asarray(image))


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("another format", encode_photo("JPEG")),
        ("grey", encode(photo().convert("L"), "PNG")),
        ("alpha", encode(photo().convert("RGBA"), "PNG")),
        ("palette", encode(photo().convert("P"), "PNG")),
        ("a transparent colour", encode(photo(), "PNG", transparency=COLOR)),
        ("16 bits", png_of(2, 2, 16, 2, bytes(2 * 13))),
        ("text behind the pixels", encode_photo("PNG")[:-12] + chunk(b"tEXt", b"a\0b") + encode_photo("PNG")[-12:]),
        ("no end", encode_photo("PNG")[:-12]),
        ("something behind the end", encode_photo("PNG") + b"x"),
    ],
)
def test_anything_else_is_left_to_pillow(what: str, data: bytes) -> None:
    assert read(data) is None, what


def test_interlaced_rows_are_left_to_pillow() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 1))
    assert read(encode_photo("PNG")[:8] + header + encode_photo("PNG")[33:]) is None


def test_no_change_of_a_bit_is_taken() -> None:
    data, chance = encode_photo("PNG"), random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[chance.randrange(33, len(data))] ^= 1 << chance.randrange(8)
        # Pillow does not open a file without chunks of pixels.
        with contextlib.suppress(Image.UnidentifiedImageError):
            assert read(bytes(damaged)) is None


def test_a_stream_that_ends_too_early_is_left_to_pillow() -> None:
    rows = rows_of(photo())
    for missing in (1, 193, len(rows) // 2):
        assert read(png_of(64, 48, 8, 2, rows[:-missing])) is None


def test_the_checksum_within_the_stream_is_the_one_thing_that_is_not_looked_at() -> None:
    stream = zlib.compress(rows_of(photo()))
    data = encode_photo("PNG")[:33] + chunk(b"IDAT", stream[:-4] + b"abcd") + chunk(b"IEND", b"")
    with Image.open(io.BytesIO(data)) as image, pytest.raises(OSError, match="broken"):
        image.load()
    assert np.array_equal(read(data), np.asarray(photo()))
