"""Fast decoder for ordinary 8-bit RGB PNG files; all other files are left to Pillow."""

from typing import cast

import kornia_rs.io
from PIL import Image

from data_prep.images.pixels import Pixels

_IHDR_RGB8 = b"\x08\x02\0\0\0"
"""Bytes 24 to 28 of a PNG: bit depth 8, color type RGB, compression, filter, no interlacing."""
_IEND_CHUNK = b"\0\0\0\0IEND\xae\x42\x60\x82"


def try_decode_png(image: Image.Image, data: bytes) -> Pixels | None:
    """Decode an opened file if it is a complete 8-bit RGB PNG with no chunks after its pixels; else return None.

    The result equals Pillow's and takes 11 instead of 23 ms for 1024 x 1024 pixels. Files that Pillow refuses give
    None, with one exception: the checksums of the chunks are verified, the one inside the compressed stream is not. A
    file with only that checksum wrong is accepted; damage in transit always breaks a chunk's checksum as well.
    """
    supported = (
        image.format == "PNG"
        and data[24:29] == _IHDR_RGB8
        and not image.has_transparency_data
        and _only_idat_follows(data, image.tile[0].offset - 8)  # type: ignore[attr-defined]
    )
    if not supported:
        return None
    try:
        return cast("Pixels", kornia_rs.io.decode_image_png_u8(data, (image.height, image.width), "rgb"))
    except Exception:  # Pillow may still decode it; otherwise it reports the problem
        return None


def _only_idat_follows(data: bytes, offset: int) -> bool:
    """Return whether only IDAT chunks and IEND follow ``offset``; an EXIF orientation could stand after the pixels."""
    while data[offset + 4 : offset + 8] == b"IDAT":
        offset += 12 + int.from_bytes(data[offset : offset + 4])
    return data[offset:] == _IEND_CHUNK
