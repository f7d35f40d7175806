"""The fast JPEG codec gives the same pixels and bytes as Pillow, and leaves all unusual files to Pillow."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from data_prep.images.fast_jpeg import encode_jpeg, try_decode_jpeg
from data_prep.images.pixels import Pixels
from tests.data_prep.corpus import cases, encode, encode_photo, photo

pytestmark = pytest.mark.filterwarnings("ignore:::PIL\\.")
FACTORS = (1, 2, 4, 8)


def read(data: bytes, factor: int = 1) -> Pixels | None:
    with Image.open(io.BytesIO(data)) as image:
        return try_decode_jpeg(image, data, factor)


def read_with_pillow(data: bytes, factor: int = 1) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (image.width // factor, image.height // factor))
        return np.asarray(image)


@pytest.mark.parametrize("case", [case for case in cases() if case.data.startswith(b"\xff\xd8")], ids=lambda c: c.name)
def test_every_file_it_decodes_has_the_pixels_that_pillow_decodes(case) -> None:
    for factor in FACTORS:
        try:
            fast = read(case.data, factor)
        except Exception:
            return  # Pillow cannot open the file
        if fast is not None and min(fast.shape[:2]) > 1:
            assert np.array_equal(fast, read_with_pillow(case.data, factor)), factor


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"icc_profile": b"any"}])
@pytest.mark.parametrize("size", [(203, 301), (64, 48), (9, 7)])
def test_a_jpeg_of_colors_is_decoded_at_every_scale(options, size) -> None:
    data = encode(photo(size=size), "JPEG", **options)
    for factor in FACTORS:
        if min(size) >= factor:
            assert np.array_equal(read(data, factor), read_with_pillow(data, factor)), factor


def test_the_first_frame_of_a_photograph_with_a_preview_is_decoded() -> None:
    preview = photo((9, 9, 9), (20, 20))
    data = encode(photo(), "MPO", save_all=True, append_images=[preview])
    assert np.array_equal(read(data), read_with_pillow(data))


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("another format", encode_photo("PNG")),
        ("grayscale", encode(photo().convert("L"), "JPEG")),
        ("inks", encode(photo().convert("CMYK"), "JPEG")),
        ("no end", encode_photo("JPEG")[:-2]),
        ("half a file", encode_photo("JPEG")[: len(encode_photo("JPEG")) // 2 + 200]),
    ],
)
def test_all_other_files_are_left_to_pillow(what: str, data: bytes) -> None:
    assert read(data) is None, what


def test_damaged_files_have_the_pixels_that_pillow_decodes_or_are_left_to_it() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    data, chance = encode(image, "JPEG"), random.Random(0)
    scan = data.index(b"\xff\xda") + 14
    for _ in range(200):
        damaged = bytearray(data)
        damaged[chance.randrange(scan, len(data))] ^= 1 << chance.randrange(8)
        fast = read(bytes(damaged))
        assert fast is None or np.array_equal(fast, read_with_pillow(bytes(damaged)))


@pytest.mark.parametrize("quality", [1, 20, 75, 89, 90, 95, 100])
def test_the_encoded_bytes_are_those_of_pillow(quality: int) -> None:
    image, buffer = photo(size=(101, 75)), io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    assert encode_jpeg(np.asarray(image), quality) == buffer.getvalue()
