"""Convert images between PIL and tensors."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from encoder.errors import ModelError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""What is opened. By name, because Pillow would start Ghostscript for a file that begins like PostScript."""


def preprocess(image: Image.Image, size: int) -> Tensor:
    """A picture as (1, 3, size, size) in [-1, 1], center-cropped and resized."""
    image = center_crop(image)
    if image.width != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def center_crop(image: Image.Image) -> Image.Image:
    """The middle of a picture, RGB: what of it is tuned on."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.convert("RGB").crop((left, top, left + side, top + side))


def preprocess_batch(images: Sequence[Image.Image], size: int) -> Tensor:
    """Pictures as (N, 3, size, size) in [-1, 1]."""
    return torch.cat([preprocess(image, size) for image in images])


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Pictures (B, 3, H, W) in [-1, 1] as PIL images."""
    arrays = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


def open_image(file: str | Path | BinaryIO, display_name: str = "") -> Image.Image:
    """Read a picture file, upright. Raises ModelError with one line if it is missing, no picture, or a bomb."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                image.load()
                return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = str(error).replace(repr(file), "it")
        raise ModelError(
            f"{display_name or file} cannot be read as a picture ({reason}); give a PNG, JPEG or WebP file"
        ) from error
