"""A part of a picture at another size."""

import numpy as np
from kornia_rs.image import Image as FastImage
from PIL import Image

from data_prep.images.fast_png import Pixels

REDUCING_GAP = 2.0
"""Box-filter by whole numbers down to twice the resolution, then LANCZOS: at least 50.5 dB against LANCZOS alone on
drawn photographs, 8 instead of 33 ms for 3024 x 3024 to 256. It comes into play from 4 times the resolution on, so
never on top of what libjpeg has shrunk."""


def crop_and_resize(source: Image.Image | Pixels, box: tuple[float, float, float, float], size: int) -> Image.Image:
    """The part of ``picture`` inside ``box`` (left, top, right, bottom) at ``side`` x ``side``.

    Where it is a whole number of times too large, by the mean of the pixels that become one: 1024 to 512 takes 0.8
    instead of 6 ms, at 46.3 to 47.5 dB against LANCZOS on drawn photographs of 1024 pixels. Else by LANCZOS.

    RGB is resized in integers of 14 bits, in half of Pillow's time or less: at least 61 dB against Pillow's on drawn
    photographs of 178 to 2000 pixels, and the same bytes on x86 with AVX-512, with AVX2 and without, and on ARM. Pillow
    does what that does not: other modes, edges between pixels, and from where its box filter is faster.
    """
    scale = (box[2] - box[0]) / size
    is_integral = all(float(edge).is_integer() for edge in box)
    left, top, right, bottom = (int(edge) for edge in box)
    if is_integral and scale > 1 and scale.is_integer():
        image = Image.fromarray(source) if isinstance(source, np.ndarray) else source
        return image.reduce(int(scale), (left, top, right, bottom))
    is_rgb = isinstance(source, np.ndarray) or source.mode == "RGB"
    if is_rgb and is_integral and scale != 1 and scale < 2 * REDUCING_GAP:
        if isinstance(source, np.ndarray):
            part = source[top:bottom, left:right]
        else:
            part = np.asarray(source if box == (0, 0, *source.size) else source.crop(box))
        return Image.fromarray(FastImage.fromarray(part).resize(size, size, "lanczos").numpy())
    image = Image.fromarray(source) if isinstance(source, np.ndarray) else source
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=REDUCING_GAP)
