"""Convert the bytes of an image file to a square sRGB image in the configured format, or reject it with a reason."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_prep.config import PIL_FORMATS, FilterConfig, PrepareConfig
from data_prep.errors import SampleRejected
from data_prep.images.color import ColorError, is_srgb, scale_transparent_color, to_8bit_opaque, to_srgb
from data_prep.images.containers import holds_only_pixels
from data_prep.images.crops import (
    Box,
    Size,
    apply_exif_orientation,
    crop_box,
    face_crop_box,
    to_stored_coords,
    upright_size,
)
from data_prep.images.fast_jpeg import JPEG_FORMATS, encode_jpeg, try_decode_jpeg
from data_prep.images.fast_png import try_decode_png
from data_prep.images.formats import has_signature
from data_prep.images.perceptual_hash import perceptual_hash
from data_prep.images.pixels import Pixels, as_image
from data_prep.images.plugins import formats_to_try
from data_prep.images.resize import crop_and_resize
from data_prep.images.scores import compute_scores, passes_filter
from data_prep.records import Record
from e4t_errors import ConfigError

DRAFT_OVERSAMPLING = 1.4
"""libjpeg shrinks a JPEG by 2, 4 or 8 while decoding, as long as this multiple of the resolution is left. PSNR against
a full decode with LANCZOS on synthetic photographs of 2 to 12 Mpx: 41-45 dB with 1.0, 45.1 with 1.33, at least 45.6
with 1.4 (4032 x 3024 to 512: 50.4 dB, 43 instead of 140 ms; to 256: 49.6 dB, 31 instead of 125 ms). A JPEG is also
shrunk if exactly the resolution is left, so that nothing has to be resized. That is as close to the photograph before
its compression as the mean of the pixels: -0.3 to +0.3 dB for 128 to 1024 pixels, by 2, 4 or 8, with and without
chroma subsampling. (Against a full decode with LANCZOS, 1024 to 512 has 46.1 dB with chroma subsampling, because
libjpeg then keeps the colors as they are stored, and 47.0 dB without.)"""

# Pillow warns about large images and odd metadata; both are handled here. The filter is set once for the process
# instead of by catch_warnings, which changes the filters of all threads and restores them in the wrong order if they
# overlap.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True, kw_only=True)
class ProcessedImage:
    """An image that is ready to be stored."""

    data: bytes
    """File content in the configured format: ``resolution`` x ``resolution`` pixels in sRGB, without metadata."""
    original_size: Size
    """Width and height of the upright original in pixels."""
    crop_box: Box
    """Left, top, right and bottom of the crop, in pixels of the upright original."""
    sha256: str
    """SHA-256 of the original file."""
    hash: int | None
    """64-bit perceptual hash; None if near duplicates are not searched for."""
    scores: dict[str, float]
    """Scores by the names in ``data.filters.scores``."""


@dataclass(frozen=True)
class _DecodedCrop:
    """A decoded, cropped and resized image in sRGB."""

    pixels: Image.Image | Pixels
    original_size: Size
    crop_box: Box
    is_passthrough: bool
    """Whether the file already is what would be written, so that its bytes can be stored unchanged."""

    @cached_property
    def image(self) -> Image.Image:
        """The pixels as an image, for functions that need one."""
        return as_image(self.pixels)


def process_image(data: bytes, record: Record, caption: str, config: PrepareConfig) -> ProcessedImage:
    """Check, decode, turn upright, crop, resize, convert to sRGB, score, filter and encode an image.

    Raises SampleRejected with the reason if the image is rejected, and ConfigError or DataError if a score function,
    the filter function or the face detector is missing or fails. The result depends only on the arguments.
    """
    crop = _decode(data, record, config)
    names = config.filters.scores
    scores = compute_scores(names, crop.image, record.source) if names else {}
    if config.filters.filter_fn:
        metadata = {
            "columns": dict(record.columns),
            "scores": dict(scores),
            "width": crop.original_size[0],
            "height": crop.original_size[1],
            "identity": record.identity,
            "caption": caption,
        }
        if not passes_filter(config.filters.filter_fn, metadata, record.source):
            raise SampleRejected("filter_fn")
    return ProcessedImage(
        data=data if config.keep_original and crop.is_passthrough else encode_image(crop.pixels, config),
        original_size=crop.original_size,
        crop_box=crop.crop_box,
        sha256=hashlib.sha256(data).hexdigest(),
        hash=None if config.filters.max_hash_distance is None else perceptual_hash(crop.image),
        scores=scores,
    )


def encode_image(pixels: Image.Image | Pixels, config: PrepareConfig) -> bytes:
    """Encode an RGB image in the configured format, deterministically."""
    if config.format == "jpg":
        return encode_jpeg(np.asarray(pixels), config.quality)
    buffer, image = io.BytesIO(), as_image(pixels)
    if config.format == "png":
        image.save(buffer, "PNG")
    else:
        # Method 4, the default, takes 39 instead of 25 ms for 512 x 512 at quality 95, for 0.1 dB and 2 % more bytes.
        image.save(buffer, "WEBP", quality=config.quality, lossless=config.lossless, method=2)
    return buffer.getvalue()


def _decode(data: bytes, record: Record, config: PrepareConfig) -> _DecodedCrop:
    if not data:
        raise SampleRejected("empty file")
    try:
        formats = formats_to_try(data, record.source, config.filters.max_pixels)
        with Image.open(io.BytesIO(data), formats=formats) as image:
            scale_transparent_color(image)
            _check_header(image, config.filters)
            return _decode_crop(image, data, record, config)
    except (SampleRejected, ConfigError):
        raise
    except ColorError as error:
        raise SampleRejected(str(error)) from None
    except Image.DecompressionBombError:
        raise SampleRejected("too many pixels") from None
    except UnidentifiedImageError:
        raise SampleRejected("truncated or damaged" if has_signature(data) else "not an image") from None
    except Exception:
        # Decoders raise OSError, SyntaxError, struct.error, IndexError and more on damaged bytes; none may end the run.
        raise SampleRejected("truncated or damaged") from None


def _check_header(image: Image.Image, filters: FilterConfig) -> None:
    """Reject an image by its header, before any pixel is decoded."""
    if image.width * image.height > filters.max_pixels:
        raise SampleRejected("too many pixels")
    # Phones add previews, depth maps or bursts to a JPEG ("MPO") or HEIF; the frame that is opened is the photograph.
    if getattr(image, "n_frames", 1) > 1 and image.format not in ("MPO", "HEIF"):
        raise SampleRejected("multiple frames")
    if min(image.size) < filters.min_side:
        raise SampleRejected("too small")
    if filters.max_aspect is not None and max(image.size) > filters.max_aspect * min(image.size):
        raise SampleRejected("aspect ratio")


def _decode_crop(image: Image.Image, data: bytes, record: Record, config: PrepareConfig) -> _DecodedCrop:
    # A JPEG's header has all that the crop needs; it is decoded only once its scale is known. Other formats may store
    # the orientation after the pixels (PNG) or rotate the pixels while loading (TIFF), so they are loaded first.
    pixels = try_decode_png(image, data) if config.crop != "face" else None
    if pixels is None and (image.format not in JPEG_FORMATS or config.crop == "face"):
        image.load()
    stored_mode, orientation = image.mode, _orientation(image)
    size = upright_size(image.size, orientation)
    if config.crop == "face":
        box = face_crop_box(apply_exif_orientation(to_8bit_opaque(image), orientation))
    else:
        box = crop_box(config.crop, size, record)
    if box[2] - box[0] < config.filters.min_side:
        raise SampleRejected("too small")
    stored_box, scale = to_stored_coords(box, size, orientation), 1.0
    if pixels is None and image.format in JPEG_FORMATS and config.crop != "face":
        pixels, scale = _decode_jpeg(image, data, shrink_factor(stored_box, config.resolution))
    left, top, right, bottom = (edge / scale for edge in stored_box)
    cropped = crop_and_resize(
        to_8bit_opaque(image) if pixels is None else pixels, (left, top, right, bottom), config.resolution
    )
    profile = image.info.get("icc_profile") or b""
    is_passthrough = (
        image.format == PIL_FORMATS[config.format]
        and stored_mode == "RGB"
        and box == (0, 0, *size) == (0, 0, config.resolution, config.resolution)
        and is_srgb(profile)
        and holds_only_pixels(data, image.format, allow_icc_profile=bool(profile))
    )
    upright = _to_upright_srgb(cropped, profile, orientation)
    return _DecodedCrop(pixels=upright, original_size=size, crop_box=box, is_passthrough=is_passthrough)


def shrink_factor(box: Box, resolution: int) -> int:
    """Return the factor by which libjpeg shrinks an image of which ``box`` is stored: 1, 2, 4 or 8."""
    for factor in (8, 4, 2):
        leaves_enough = box[2] - box[0] >= factor * resolution * DRAFT_OVERSAMPLING
        leaves_exactly_the_box = box[2] - box[0] == factor * resolution and not any(edge % factor for edge in box)
        if leaves_enough or leaves_exactly_the_box:
            return factor
    return 1


def _decode_jpeg(image: Image.Image, data: bytes, factor: int) -> tuple[Pixels | None, float]:
    """Decode a JPEG, shrunk by up to ``factor``; return its pixels, or None if Pillow has loaded them, and the factor.

    Pillow does not shrink every JPEG.
    """
    pixels = try_decode_jpeg(image, data, factor)
    if pixels is not None:
        return pixels, factor
    width = image.width
    drafted = image.draft(None, (width // factor, image.height // factor)) if factor > 1 else None
    image.load()
    return None, width / drafted[1][2] if drafted else 1


def _to_upright_srgb(pixels: Image.Image | Pixels, profile: bytes, orientation: int) -> Image.Image | Pixels:
    """Convert pixels as they are stored in a file with this profile and EXIF orientation to upright ones in sRGB."""
    if isinstance(pixels, np.ndarray) and orientation == 1 and is_srgb(profile):
        return pixels
    image = as_image(pixels)
    image.info = {"icc_profile": profile}
    return apply_exif_orientation(to_srgb(image), orientation)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or invalid, or if the decoder has turned the image."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # JPEG XL has an orientation of its own, except in a JPEG file that was compressed further
    try:
        # Not the getexif of PngImageFile: it would decode the pixels to find EXIF data after them. Where such data can
        # exist, the image has been loaded already.
        orientation = Image.Image.getexif(image).get(0x0112, 1)
    except Exception:  # malformed metadata must not reject the image
        return 1
    return orientation if orientation in range(1, 9) else 1
