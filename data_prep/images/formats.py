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

_HEIF = rb"....ftyp(?:hei[cmsx]|hev[cmsx]|mif[12]|msf1)"
_JXL = rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|....ftypavi[fs]|GIF8[79]a|II[*+]\0|MM\0[*+]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|" + _HEIF + rb"|" + _JXL,
    re.DOTALL,
)
_WEAK_SIGNATURES = re.compile(rb"BM....\0\0\0\0.\0\0\0|P[1-7][ \t\r\n][\d# \t\r\nW]|P[fF]\n", re.DOTALL)
"""Signatures of BMP and PNM, which are so short that other data may start with them, too."""
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"
_EXTRAS = {"heif": re.compile(_HEIF, re.DOTALL), "jxl": re.compile(_JXL, re.DOTALL)}
"""Signatures of the formats that Pillow opens with a plugin, by the extra of e4t that installs it."""


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
    return next((extra for extra, signature in _EXTRAS.items() if signature.match(data)), None)
