"""Open images and convert them between PIL and tensors."""

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from PIL import Image, ImageOps
from torch import Tensor

from encoder.errors import ModelError
from encoder.finite import check_finite

if TYPE_CHECKING:
    from diffusers.image_processor import VaeImageProcessor

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""Formats that are opened. They are listed because Pillow would start Ghostscript for a PostScript file."""


def preprocess(image: Image.Image, size: int) -> Tensor:
    """Center-crop and resize an image. Return (1, 3, size, size) in [-1, 1]."""
    pixels: Tensor = _processor().preprocess(center_crop(image), size, size)
    return pixels.contiguous()  # in channels-last order, convolutions would round differently than they always have


def center_crop(image: Image.Image) -> Image.Image:
    """Crop the largest centered square and convert it to RGB."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.convert("RGB").crop((left, top, left + side, top + side))


def preprocess_batch(images: Sequence[Image.Image], size: int) -> Tensor:
    """Center-crop and resize images. Return (N, 3, size, size) in [-1, 1]."""
    return torch.cat([preprocess(image, size) for image in images])


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Convert a tensor (B, 3, H, W) in [-1, 1] to PIL images. Raises ModelError if a value is not finite."""
    check_finite(
        {f"image {index}": each for index, each in enumerate(pixels)},
        "generated images",
        "the base model's precision may be too low for it: use float32 or bfloat16",
    )
    return _processor().postprocess(pixels, output_type="pil")  # type: ignore[no-any-return]


@cache
def _processor() -> "VaeImageProcessor":
    # Importing diffusers takes seconds, and opening an image does not need it.
    from diffusers.image_processor import VaeImageProcessor

    return VaeImageProcessor(vae_scale_factor=1, resample="lanczos")


def open_image(file: str | Path | BinaryIO, display_name: str = "") -> Image.Image:
    """Open an image file as RGB with its EXIF orientation applied.

    ``display_name`` names it in the error message. Raises ModelError if the file is missing, not an image, or a
    decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                image.load()
                return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = str(error).replace(repr(file), "it")
        raise ModelError(
            f"{display_name or file} cannot be read as an image ({reason}); give a PNG, JPEG or WebP file"
        ) from error
