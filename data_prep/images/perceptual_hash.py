"""Perceptual hashes: the hashes of images that look alike differ in few bits."""

import math

import numpy as np
from PIL import Image

_DCT_SIZE, _HASH_SIZE = 32, 8
_NOISE_THRESHOLD = 3.0
"""DCT coefficients up to this much above the median give no bit. It is the 32 x 32 DCT coefficient of a pattern with an
amplitude of a tenth of a gray level; JPEG at quality 50, or grain of 10 gray levels at 512 x 512, leaves less in a flat
image. Larger values make smooth images indistinguishable: of a million random ones, 4 were near duplicates at distance
4 with this value and 31,774 with 8.0."""

_DCT_MATRIX = np.cos(np.pi / _DCT_SIZE * np.outer(np.arange(_HASH_SIZE), np.arange(_DCT_SIZE) + 0.5)) * math.sqrt(
    2 / _DCT_SIZE
)
_DCT_MATRIX[0] /= math.sqrt(2)
"""First rows (8, 32) of the orthonormal DCT (type II)."""


def perceptual_hash(image: Image.Image) -> int:
    """Return a 64-bit hash that hardly changes when an image is resized, recompressed or slightly brightened.

    This is the DCT hash of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010),
    known as pHash: of the luma at 32 x 32 pixels, each of the lowest 8 x 8 DCT coefficients gives one bit, which is set
    if the coefficient is above their median. It differs from pHash in two ways. It uses the first 8 rows and columns,
    whereas pHash skips the first ones and with them all structure that changes in one direction only; the constant
    coefficient gives no bit, so the highest bit is always 0. And a coefficient must exceed the median by a threshold,
    so that all bits of an image without structure are 0, whatever its color and compression, instead of random.
    """
    luma = np.asarray(image.convert("L").resize((_DCT_SIZE, _DCT_SIZE), Image.Resampling.BILINEAR), dtype=np.float64)
    coefficients = (_DCT_MATRIX @ luma @ _DCT_MATRIX.T).ravel()
    coefficients[0] = -math.inf
    median = np.sort(coefficients)[_HASH_SIZE * _HASH_SIZE // 2]
    return int.from_bytes(np.packbits(coefficients > median + _NOISE_THRESHOLD).tobytes(), "big")
