import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFilter, PngImagePlugin

from data_prep.config import FilterConfig, PrepareConfig
from data_prep.errors import DataError, SampleRejected
from data_prep.images.crops import _face_detector
from data_prep.images.perceptual_hash import perceptual_hash
from data_prep.images.transform import ProcessedImage, encode_image, process_image
from data_prep.records import Record, Scalar
from e4t_errors import ConfigError
from tests.data_prep.corpus import bgr_profile, encode


def config(filters: FilterConfig | None = None, **changes: Any) -> PrepareConfig:
    settings: dict[str, Any] = {"source": "x", "output": "y", "domain": "cat", "resolution": 16, "format": "png"}
    return PrepareConfig(**settings | {"filters": filters or FilterConfig(min_side=8)} | changes)


def record(**columns: Scalar) -> Record:
    return Record(key="cat-1", identity="cat", source="cats/1.jpg", location=("1.jpg",), columns=columns)


def make(data: bytes, **changes: Any) -> ProcessedImage:
    return process_image(data, record(), "a cat", config(**changes))


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def photograph(size: tuple[int, int]) -> Image.Image:
    """Generate a smooth image with detail and grain that is not symmetric."""
    grain = np.random.default_rng(0).normal(0, 3, (size[1], size[0], 1))
    parts = [noise((n, n), n).resize(size, Image.Resampling.BICUBIC) for n in (3, 9, 40)]
    image = np.mean([np.asarray(part, dtype=float) for part in parts], axis=0) + grain
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((a - b) ** 2).mean(), 1e-9)))


def with_orientation(image: Image.Image, orientation: int, format_name: str) -> bytes:
    """Encode a file that shows ``image`` upright when its EXIF orientation is applied."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = image.transpose(Image.Transpose(back[orientation])) if orientation > 1 else image
    return encode(stored, format_name, exif=exif, **{"quality": 97} if format_name == "JPEG" else {})


def test_an_image_of_the_right_size_keeps_every_pixel() -> None:
    image = noise((16, 16))
    assert np.array_equal(pixels(make(encode(image, "BMP")).data), np.asarray(image))


def test_the_center_square_is_kept() -> None:
    image = noise((31, 20))
    processed = make(encode(image, "PNG"), resolution=20)
    assert (processed.original_size, processed.crop_box) == ((31, 20), (5, 0, 25, 20))
    assert np.array_equal(pixels(processed.data), np.asarray(image)[:, 5:25])


def test_the_crop_mode_selects_the_square() -> None:
    data = encode(noise((40, 20)), "PNG")
    boxed = process_image(data, record(left=30, top=2, right=40, bottom=6), "", config(crop="box"))
    assert boxed.crop_box == (30, 0, 40, 10)
    assert np.array_equal(make(data, crop="random").crop_box, make(data, crop="random").crop_box)


def test_a_crop_smaller_than_min_side_is_rejected() -> None:
    with pytest.raises(SampleRejected, match="too small"):
        process_image(encode(noise((40, 20)), "PNG"), record(left=0, top=0, right=7, bottom=7), "", config(crop="box"))


def test_a_larger_image_is_downscaled_without_aliasing() -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    for format_name in ("PNG", "JPEG"):
        shrunk = pixels(make(encode(Image.fromarray(stripes), format_name)).data)
        assert np.abs(shrunk[:, 2:-2] - 127).max() <= 8, format_name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_the_crop_respects_the_exif_orientation(orientation: int, format_name: str) -> None:
    image = photograph((203, 150))
    expected = image.crop((3, 4, 133, 134)).resize((16, 16), Image.Resampling.LANCZOS)
    data = with_orientation(image, orientation, format_name)
    processed = process_image(data, record(left=3, top=4, right=133, bottom=134), "", config(crop="box"))
    assert (processed.original_size, processed.crop_box) == ((203, 150), (3, 4, 133, 134))
    assert decibels(pixels(processed.data), np.asarray(expected)) > 40


def test_a_jpeg_downscaled_by_its_decoder_looks_the_same() -> None:
    image = photograph((1501, 1103))
    data = encode(image, "JPEG", quality=92)
    box = (401, 203, 1301, 1103)
    processed = process_image(
        data, record(left=401, top=203, right=1301, bottom=1103), "", config(crop="box", resolution=64)
    )
    with Image.open(io.BytesIO(data)) as decoded:
        expected = decoded.crop(box).resize((64, 64), Image.Resampling.LANCZOS)
    assert (processed.original_size, processed.crop_box) == ((1501, 1103), box)
    assert decibels(pixels(processed.data), np.asarray(expected)) > 45


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("offset", [0, 8, 1], ids=["at the edge", "aligned", "not aligned"])
def test_a_jpeg_of_a_multiple_of_the_resolution_is_as_close_to_the_photograph_as_the_mean_of_its_pixels(
    factor: int, subsampling: int, offset: int
) -> None:
    side = 64 * factor
    image, box = photograph((side + 16, side)), (offset, 0, offset + side, side)
    data = encode(image, "JPEG", quality=92, subsampling=subsampling)
    columns = dict(zip(("left", "top", "right", "bottom"), box, strict=True))
    processed = process_image(data, record(**columns), "", config(crop="box", resolution=64))
    expected = np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS, box=box))
    with Image.open(io.BytesIO(data)) as decoded:
        mean = np.asarray(decoded.reduce(factor, box))
    assert processed.crop_box == box
    assert decibels(pixels(processed.data), expected) > decibels(mean, expected) - 1.5


def test_each_limit_rejects_images_beyond_it() -> None:
    data = encode(noise((100, 20)), "PNG")
    for reason, filters in {
        "too many pixels": FilterConfig(max_pixels=1999),
        "too small": FilterConfig(min_side=21),
        "aspect ratio": FilterConfig(max_aspect=4.9),
    }.items():
        with pytest.raises(SampleRejected) as caught:
            make(data, filters=filters)
        assert str(caught.value) == reason
    assert make(data, filters=FilterConfig(max_pixels=2000, min_side=20, max_aspect=5.0)).original_size == (100, 20)


def test_an_image_of_too_many_pixels_is_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise((100, 20)), "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(SampleRejected, match="too many pixels"):
        make(data, filters=FilterConfig(max_pixels=1999))


def test_scores_are_computed_from_the_stored_image() -> None:
    sharp = noise((64, 64))
    blurred = sharp.filter(ImageFilter.GaussianBlur(4))
    first, second = (
        make(encode(image, "PNG"), filters=FilterConfig(scores=("blur",)), resolution=64).scores["blur"]
        for image in (sharp, blurred)
    )
    assert second < first / 10


def test_the_filter_function_gets_all_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "our_filter.py").write_text(
        "seen = []\ndef take(metadata):\n    seen.append(metadata)\n    return False\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    filters = FilterConfig(scores=("blur",), filter_fn="our_filter:take")
    with pytest.raises(SampleRejected, match="^filter_fn$"):
        process_image(encode(Image.new("RGB", (40, 20)), "PNG"), record(age=3), "a cat", config(filters))
    import our_filter  # type: ignore[import-not-found]

    assert our_filter.seen == [
        {
            "columns": {"age": 3},
            "scores": {"blur": 0.0},
            "width": 40,
            "height": 20,
            "identity": "cat",
            "caption": "a cat",
        }
    ]


@pytest.mark.parametrize(("name", "error"), [("no_such:function", ConfigError), ("math:sqrt", DataError)])
def test_a_broken_score_is_an_error_and_not_a_reject_reason(name: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        make(encode(noise((16, 16)), "PNG"), filters=FilterConfig(scores=(name,)))


def test_a_missing_face_detector_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    _face_detector.cache_clear()
    with pytest.raises(ConfigError, match="pip install"):
        make(encode(noise((16, 16)), "PNG"), crop="face")


def test_the_hash_is_computed_only_for_near_duplicate_search() -> None:
    data = encode(photograph((16, 16)), "PNG")
    assert make(data).hash is None
    with Image.open(io.BytesIO(data)) as image:
        assert make(data, filters=FilterConfig(max_hash_distance=4)).hash == perceptual_hash(image.convert("RGB"))


@pytest.mark.parametrize("codec", ["png", "webp", "jpg"])
def test_encoding_is_deterministic_and_without_metadata(codec: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    data = encode(noise((16, 16)), "JPEG", exif=exif, icc_profile=b"a color profile", comment=b"hello")
    first, second = (make(data, format=codec).data for _ in range(2))
    assert first == second
    assert not [secret for secret in (b"taken at home", b"color profile", b"hello") if secret in first]
    assert pixels(first).shape == (16, 16, 3)


def test_lossless_webp_keeps_every_pixel() -> None:
    image = noise((16, 16))
    assert np.array_equal(pixels(encode_image(image, config(format="webp", lossless=True))), np.asarray(image))


CODECS = [("png", "PNG"), ("webp", "WEBP"), ("jpg", "JPEG")]


@pytest.mark.parametrize(("codec", "format_name"), CODECS)
def test_a_file_in_the_target_form_is_stored_unchanged(codec: str, format_name: str) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (None, srgb):
        data = encode(noise((16, 16)), format_name, icc_profile=profile, quality=70, compress_level=1)
        assert make(data, format=codec).data == data
        assert make(data, format=codec, keep_original=False).data != data


@pytest.mark.parametrize(("codec", "format_name"), CODECS)
def test_any_other_file_is_encoded_again(codec: str, format_name: str) -> None:
    image, exif = noise((16, 16)), Image.Exif()
    exif[0x0112] = 1
    for name, data in {
        "larger": encode(noise((17, 17)), format_name),
        "wider": encode(noise((17, 16)), format_name),
        "with another profile": encode(image, format_name, icc_profile=bgr_profile()),
        "with a broken profile": encode(image, format_name, icc_profile=b"no profile"),
        "with EXIF": encode(image, format_name, exif=exif),
        "with something behind it": encode(image, format_name) + b"GPS",
        "grayscale": encode(image.convert("L"), format_name),
    }.items():
        if (codec, name) != ("webp", "grayscale"):  # WebP does not support this
            assert make(data, format=codec).data != data, name


def test_a_crop_of_a_square_image_is_encoded_again() -> None:
    data = encode(noise((16, 16)), "PNG")
    processed = process_image(data, record(left=0, top=0, right=8, bottom=8), "", config(crop="box"))
    assert processed.data != data


def test_the_sha256_is_that_of_the_original_file() -> None:
    data = encode(noise((40, 40)), "PNG")
    assert make(data).sha256 == hashlib.sha256(data).hexdigest()
