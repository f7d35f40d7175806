"""RGB values as an array, which the fast codecs and resizers need, and as an image, which Pillow needs."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels: TypeAlias = NDArray[np.uint8]
"""Array (H, W, 3) of RGB values."""


def as_image(pixels: Image.Image | Pixels) -> Image.Image:
    """Convert an array to an image; an image is returned unchanged."""
    return Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
