import io
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.errors import SampleRejected
from data_prep.images import plugins
from data_prep.images.formats import has_signature, is_tga, jxl_size, looks_like_image, needed_extra
from data_prep.images.transform import process_image
from data_prep.records import Record
from tests.data_prep.corpus import COLOR, encode, encode_photo, photo

CONFIG = PrepareConfig(source="x", output="y", domain="cat", resolution=32, format="png")
FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "HEIF", "JXL"]


def mean_color(data: bytes, name: str = "a") -> np.ndarray:
    """Return the mean color of the stored image."""
    record = Record(key="a", identity="a", source=name, location=(name,))
    with Image.open(io.BytesIO(process_image(data, record, "", CONFIG).data)) as image:
        return np.asarray(image).mean((0, 1))


@pytest.fixture
def no_extras(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the plugins impossible to import."""
    plugins._register.cache_clear()
    for name in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, name, None)
    yield
    plugins._register.cache_clear()


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_is_told_by_its_first_bytes(format_name: str) -> None:
    assert looks_like_image(encode_photo(format_name)[:512])


@pytest.mark.parametrize("data", [b"", b"text", b"BM is a text", b"P1 is a text", b"MMORPG", b"II*", b"RIFF1234WAVE"])
def test_other_data_do_not_look_like_images(data: bytes) -> None:
    assert not looks_like_image(data)
    assert not has_signature(data)


def test_tga_without_footer_is_told_by_its_name_alone() -> None:
    data = encode_photo("TGA")
    assert is_tga(data, "a")
    data = data[:-26]
    assert not is_tga(data, "a.jpg")
    assert np.abs(mean_color(data, "set.zip!a.TGA") - COLOR).max() < 4
    with pytest.raises(SampleRejected, match="not an image"):
        mean_color(data)


def test_a_wrong_suffix_does_not_matter() -> None:
    for format_name, name in (("JPEG", "a.heic"), ("HEIF", "a.jpg"), ("JXL", "a.png"), ("PNG", "a.tga")):
        assert np.abs(mean_color(encode_photo(format_name), name) - COLOR).max() < 4


@pytest.mark.parametrize(("format_name", "extra"), [("HEIF", "heif"), ("JXL", "jxl")])
def test_a_format_without_its_extra_is_rejected_by_name(format_name: str, extra: str, no_extras: None) -> None:
    with pytest.raises(SampleRejected, match=f"needs extra {extra}") as rejected:
        mean_color(encode_photo(format_name))
    assert rejected.value.cause == f"pip install 'e4t[{extra}]'"


def test_avif_with_the_brand_of_heif_needs_no_extra() -> None:
    avif = encode_photo("AVIF")
    assert needed_extra(avif.replace(b"ftypavif", b"ftypmif1", 1)) is None
    assert needed_extra(encode_photo("HEIF")) == "heif"


@pytest.mark.parametrize("size", [(64, 48), (64, 64), (1, 1), (97, 33), (1600, 900), (300, 20_000), (8, 256)])
@pytest.mark.parametrize("use_container", [False, True])
def test_the_size_of_jpeg_xl_is_read_from_its_header(size: tuple[int, int], use_container: bool) -> None:
    data = encode(Image.new("L", size), "JXL", lossless=True, effort=1, use_container=use_container)
    assert jxl_size(data) == size


def test_jpeg_xl_with_too_many_pixels_is_not_decoded() -> None:
    header = int.to_bytes((2**30 - 1) << 3 | 0b110 | 1 << 33, 8, "little")
    with pytest.raises(SampleRejected, match="too many pixels"):
        mean_color(b"\xff\x0a" + header)
    for damaged in (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)):
        assert jxl_size(damaged) is None


def test_heif_is_turned_upright_once() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    image = photo()
    image.paste((0, 0, 0), (0, 0, 64, 10))
    data = encode(image, "HEIF", exif=turned.tobytes())
    record = Record(key="a", identity="a", source="a", location=("a",))
    stored = process_image(data, record, "", CONFIG)
    pixels = np.asarray(Image.open(io.BytesIO(stored.data)))
    assert stored.original_size == (48, 64)
    assert pixels[:, -2].mean() < 40 < pixels[:, 2].mean()
