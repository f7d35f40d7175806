"""File formats of images: by which suffixes and first bytes they are known, and with which of them Pillow may open.

Sources import this module to list files, so it must not import Pillow.
"""

import re
from pathlib import PurePosixPath

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo")
    + (".png", ".apng", ".webp", ".avif", ".avifs", ".gif", ".bmp", ".dib", ".tif", ".tiff")
    + (".ppm", ".pgm", ".pnm", ".pbm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")
    + (".tga", ".icb", ".vda", ".heic", ".heif", ".hif", ".heics", ".heifs", ".jxl")
)
_DERIVED_SUFFIX = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|tiff?|heic|avif)[^a-z0-9~].*")
"""An image suffix with something after it, as websites name files: ``.jpg_large``, ``.jpg-orig``, ``.png?w=800``."""
TGA_SUFFIXES = (".tga", ".icb", ".vda")
SNIFFED_BYTES = 512
"""Number of first bytes that are read of files whose suffix says nothing."""

_HEIF = re.compile(rb"....ftyp(?:hei[cmsx]|hev[cmsx]|mif[12]|msf1)", re.DOTALL)
_JXL = re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n")
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|....ftypavi[fs]|GIF8[79]a|II[*+]\0|MM\0[*+]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|" + _HEIF.pattern + rb"|" + _JXL.pattern,
    re.DOTALL,
)
_WEAK_SIGNATURES = re.compile(rb"BM....\0\0\0\0.\0\0\0|P[1-7][ \t\r\n][\d# \t\r\nW]|P[fF]\n", re.DOTALL)
"""Signatures of BMP and PNM, which are so short that other data may start with them, too."""
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"


def is_image_suffix(suffix: str) -> bool:
    """Return whether files with this suffix (lower or upper case, with its dot) are images."""
    suffix = suffix.lower()
    return suffix in IMAGE_SUFFIXES or bool(_DERIVED_SUFFIX.fullmatch(suffix))


def has_signature(data: bytes) -> bool:
    """Return whether data start with the signature of an image format. BMP, PNM and TGA have none that is certain."""
    return bool(_SIGNATURES.match(data))


def looks_like_image(head: bytes) -> bool:
    """Return whether a file with these first bytes probably is an image. A TGA file cannot be told by them."""
    return bool(_SIGNATURES.match(head) or _WEAK_SIGNATURES.match(head))


def is_tga(data: bytes, name: str) -> bool:
    """Return whether a file is TGA, by its footer or by its name: the older version of TGA has no signature at all."""
    return data.endswith(_TGA_FOOTER) or PurePosixPath(name).suffix.lower() in TGA_SUFFIXES


def needed_extra(data: bytes) -> str | None:
    """Return the extra of e4t that is needed to open this image, or None if Pillow alone opens it."""
    if _JXL.match(data):
        return "jxl"
    # AVIF files may have the brand of HEIF first, and their own among the compatible ones.
    is_heif = _HEIF.match(data) and b"avif" not in data[8 : int.from_bytes(data[:4])]
    return "heif" if is_heif else None


_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width and height of an image relative to each other, by their number in the header, from 1."""


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height in the header of a JPEG XL image, or None if there is no valid one."""
    header = _jxl_codestream(data)[2:16]
    bits, position = int.from_bytes(header, "little"), 0

    def take(count: int) -> int:
        nonlocal position
        value = bits >> position & (1 << count) - 1
        position += count
        return value

    def take_side(is_small: int) -> int:
        return (take(5) + 1) * 8 if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    if not header:
        return None
    is_small = take(1)
    height, ratio = take_side(is_small), take(3)
    if ratio == 0:
        return take_side(is_small), height
    numerator, denominator = _JXL_RATIOS[ratio - 1]
    return height * numerator // denominator, height


def _jxl_codestream(data: bytes) -> bytes:
    """Return the beginning of the codestream, which may be in a container of boxes; empty if there is none."""
    offset = 0
    if data.startswith(b"\xff\x0a"):
        return data
    while offset + 16 <= len(data):
        size, kind, start = int.from_bytes(data[offset : offset + 4]), data[offset + 4 : offset + 8], offset + 8
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8]), start + 8
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0
            return data[start : start + 32]
        if size < 8:
            break
        offset += size
    return b""
