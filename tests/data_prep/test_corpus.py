"""Odd and malformed files become correct images or are rejected with a reason, and have no other effect."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.config import FilterConfig, PrepareConfig
from data_prep.errors import SampleRejected
from data_prep.images.transform import process_image
from data_prep.records import Record
from tests.data_prep.corpus import Case, cases, encode_photo

# data_prep.images.transform sets warning filters per process; pytest resets them per test.
pytestmark = pytest.mark.filterwarnings("error", r"ignore:::PIL\.")

RECORD = Record(key="a", identity="a", source="a.jpg", location=("a.jpg",))
CONFIG = PrepareConfig(
    source="x",
    output="y",
    domain="cat",
    resolution=32,
    format="png",
    filters=FilterConfig(min_side=8, max_pixels=1_000_000, max_aspect=10.0),
)
REASONS = {
    "aspect ratio",
    "empty file",
    "floating-point pixels",
    "more than 16 bits",
    "not an image",
    "multiple frames",
    "too many pixels",
    "too small",
    "truncated or damaged",
}
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "HEIF", "JXL", "TGA")


def outcome(data: bytes) -> str | np.ndarray:
    """Return the reject reason, or the pixels of the stored image."""
    try:
        processed = process_image(data, RECORD, "", CONFIG)
    except SampleRejected as rejected:
        return str(rejected)
    with Image.open(io.BytesIO(processed.data)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
        return np.asarray(image)


def check(case: Case) -> None:
    got = outcome(case.data)
    if isinstance(case.expect, str) or isinstance(got, str):
        assert got == case.expect, case.name
    else:
        assert np.abs(got.mean((0, 1)) - case.expect).max() <= 4, case.name


def test_the_corpus_has_at_least_150_files_with_unique_names() -> None:
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names) >= 150


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_file_becomes_a_correct_image_or_is_rejected_with_its_reason(case: Case) -> None:
    check(case)


def test_outcomes_are_the_same_in_many_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, cases()))


def test_nothing_is_printed_and_no_warning_is_raised() -> None:
    program = "from tests.data_prep.test_corpus import cases, check; [check(case) for case in cases()]"
    root = Path(__file__).parents[2]
    completed = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-W", "error", "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "", "")


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(FORMATS), st.data())
def test_randomly_damaged_files_become_images_or_are_rejected(format_name: str, draw: st.DataObject) -> None:
    data = bytearray(encode_photo(format_name))
    for _ in range(draw.draw(st.integers(1, 6))):
        # Damage headers more often, because decoders fail there.
        at = draw.draw(st.one_of(st.integers(0, 200), st.integers(0, max(len(data) - 1, 0))))
        match draw.draw(st.sampled_from(["flip", "delete", "insert", "cut"])):
            case "flip":
                data[at : at + 1] = bytes([draw.draw(st.integers(0, 255))])
            case "delete":
                del data[at : at + draw.draw(st.integers(1, 40))]
            case "insert":
                data[at:at] = draw.draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del data[at:]
    got = outcome(bytes(data))
    assert not isinstance(got, str) or got in REASONS
