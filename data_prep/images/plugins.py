"""Open the formats that Pillow reads with a plugin, HEIF and JPEG XL, which are extras of e4t."""

from functools import lru_cache

from data_prep.errors import SampleRejected
from data_prep.images.formats import is_tga, jxl_size, needed_extra

PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""Formats that are opened. They are listed because Pillow would start Ghostscript for files that look like
PostScript."""


def formats_to_try(data: bytes, name: str, max_pixels: int) -> tuple[str, ...]:
    """Return the formats in which Pillow may open a file.

    Raises SampleRejected if the extra for its format is not installed, and for a JPEG XL image of more pixels than
    ``max_pixels``, because the plugin decodes it as soon as it is opened.
    """
    extra = needed_extra(data)
    if extra is None:
        # Pillow takes nearly any data for TGA.
        return (*PILLOW_FORMATS, "TGA") if is_tga(data, name) else PILLOW_FORMATS
    if not _register(extra):
        raise SampleRejected(f"needs extra {extra}", cause=f"pip install 'e4t[{extra}]'")
    if extra == "heif":
        return ("HEIF",)
    width, height = jxl_size(data) or (0, 0)
    if width * height > max_pixels:
        raise SampleRejected("too many pixels")
    return ("JXL",)


@lru_cache
def _register(extra: str) -> bool:
    """Register the plugin with Pillow; return whether it is installed."""
    try:
        if extra == "heif":
            import pillow_heif

            pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)
        else:
            from pillow_jxl import JpegXLImagePlugin

            JpegXLImagePlugin.DECODE_THREADS = 0  # each worker process has one core
    except ImportError:
        return False
    return True
