"""Crop and resize in one step, with the fastest method of sufficient quality."""

import numpy as np
from kornia_rs.image import Image as FastImage
from PIL import Image

from data_prep.images.pixels import Pixels, as_image

REDUCING_GAP = 2.0
"""Pillow first reduces by an integer factor to at least this multiple of the target size, then applies LANCZOS. PSNR is
at least 50.5 dB against LANCZOS alone on synthetic photographs, in 8 instead of 33 ms for 3024 x 3024 to 256. It takes
effect from 4 times the target size on, so never for images that libjpeg has already shrunk."""


def crop_and_resize(
    source: Image.Image | Pixels, box: tuple[float, float, float, float], size: int
) -> Image.Image | Pixels:
    """Crop ``source`` to ``box`` (left, top, right, bottom) and resize it to ``size`` x ``size`` pixels.

    If the scale is an integer, each target pixel is the mean of the source pixels: 1024 to 512 takes 0.8 instead of
    6 ms, with a PSNR of 46.3 to 47.5 dB against LANCZOS on synthetic photographs. By other factors below 4, RGB images
    are shrunk with an antialiased bicubic filter, in 0.7 of the time of LANCZOS: PSNR against LANCZOS is at least 50.5
    dB for 530 to 2000 pixels to 512. Otherwise LANCZOS is used.

    Both filters are computed by kornia-rs in 14-bit integers, in at most half of Pillow's time: PSNR against Pillow's
    same filter is at least 61 dB on synthetic photographs of 178 to 2000 pixels, and the bytes do not depend on the
    instruction set (checked for both with AVX-512 and AVX2, for LANCZOS also with neither and on ARM). Pillow handles
    other modes and fractional boxes with LANCZOS.

    The result is an array or an image, whichever costs no conversion; the values do not depend on the type of
    ``source``.
    """
    scale = (box[2] - box[0]) / size
    is_integral = all(float(edge).is_integer() for edge in box)
    left, top, right, bottom = (int(edge) for edge in box)
    if isinstance(source, np.ndarray) and is_integral and scale == 1:
        return np.ascontiguousarray(source[top:bottom, left:right])
    interpolation = _fast_interpolation(scale)
    # Pillow takes the mean of an image's pixels in less time than the conversion to an array.
    is_suitable = isinstance(source, np.ndarray) or (source.mode == "RGB" and interpolation != "bilinear")
    if interpolation and is_integral and is_suitable:
        if isinstance(source, np.ndarray):
            part = source[top:bottom, left:right]
        else:
            part = np.asarray(source if box == (0, 0, *source.size) else source.crop(box))
        return FastImage.fromarray(part).resize(size, size, interpolation).numpy()
    image = as_image(source)
    if is_integral and scale > 1 and scale.is_integer():
        return image.reduce(int(scale), (left, top, right, bottom))
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=REDUCING_GAP)


def _fast_interpolation(scale: float) -> str | None:
    """Return what kornia-rs calls the interpolation for a scale, or None if it has none or Pillow is faster."""
    if scale == 2:
        return "bilinear"  # in the middle of four pixels: their mean
    if scale.is_integer() or scale >= 2 * REDUCING_GAP:
        return None
    return "bicubic" if scale > 1 else "lanczos"
