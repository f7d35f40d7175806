"""One picture: read whatever it is, keep out what it should not be, crop, resize, encode."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data_prep.config import PrepareConfig


class Rejected(Exception):  # noqa: N818 - an outcome, not an error
    """The picture is kept out; the message is the reason, from a small fixed set, so that reasons can be counted."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture ready to be stored."""

    image: Image.Image
    """RGB, ``resolution`` x ``resolution`` pixels, without metadata."""
    original_size: tuple[int, int]
    """Width and height of the upright original."""
    crop_box: tuple[int, int, int, int]
    """Left, top, right, bottom of the part that was kept, in pixels of the upright original."""
    sha256: str
    """Of the file's bytes."""


def load_picture(path: Path, config: PrepareConfig) -> Picture:
    """Read, turn upright, convert to RGB, crop the middle square and resize it. Raises Rejected."""
    try:
        data = path.read_bytes()
    except OSError:
        raise Rejected("unreadable") from None
    if not data:
        raise Rejected("empty file")
    image = _decode(data, config)
    side = min(image.size)
    if side < config.min_side:
        raise Rejected("too small")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    square = image.crop(box)
    if side != config.resolution:
        square = square.resize((config.resolution, config.resolution), Image.Resampling.LANCZOS)
    # Writers copy colour profiles and the like from here; a GPS position has no business in a training set.
    square.info = {}
    return Picture(image=square, original_size=image.size, crop_box=box, sha256=hashlib.sha256(data).hexdigest())


def encode(image: Image.Image, config: PrepareConfig) -> bytes:
    """The picture's bytes in the configured codec; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    if config.codec == "png":
        image.save(buffer, "PNG")
    elif config.codec == "jpg":
        image.save(buffer, "JPEG", quality=config.quality, subsampling=0)
    else:
        image.save(buffer, "WEBP", quality=config.quality, lossless=config.lossless, method=4)
    return buffer.getvalue()


def _decode(data: bytes, config: PrepareConfig) -> Image.Image:
    """Upright RGB."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                _check_before_decoding(image, config)
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except Rejected:
        raise
    except Image.DecompressionBombError:
        raise Rejected("too many pixels") from None
    except UnidentifiedImageError:
        raise Rejected("not a picture") from None
    except Exception:
        # Decoders answer damaged bytes with OSError, SyntaxError, struct.error, IndexError and more; none ends the run.
        raise Rejected("truncated or damaged") from None


def _check_before_decoding(image: Image.Image, config: PrepareConfig) -> None:
    if image.width * image.height > config.max_pixels:
        raise Rejected("too many pixels")
    # Phones write a JPEG with a preview or a depth map behind it ("MPO"); the first frame is the photograph.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise Rejected("several frames")


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB, alpha over white, 16 bits scaled to 8."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise Rejected("more than 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Rejected("floating-point pixels")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
