"""Whether a file is nothing but its picture, by a walk over its container: what is not known to be harmless is not."""

import re

_PNG_HARMLESS = frozenset({b"IHDR", b"IDAT", b"IEND", b"sRGB", b"gAMA", b"cHRM", b"pHYs"})
_JPEG_HARMLESS = frozenset({0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xEE})
"""Frames, tables, scans, restart interval and Adobe's colour transform. Not here: APP1 (EXIF, XMP), APP13, comments."""
_JPEG_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def holds_only_pixels(data: bytes, format_name: str, *, with_profile: bool) -> bool:
    """Whether a whole JPEG, PNG or WEBP has 8-bit colours, no metadata, and nothing behind its end.

    A colour profile passes ``with_profile``; the caller has seen which.
    """
    if format_name == "PNG":
        return _plain_png(data, with_profile)
    if format_name == "JPEG":
        return _plain_jpeg(data, with_profile)
    return format_name == "WEBP" and _plain_webp(data, with_profile)


def _plain_png(data: bytes, with_profile: bool) -> bool:
    eight_bits_rgb = data[24:26] == b"\x08\x02"
    at, kind = 8, b""
    while kind != b"IEND" and at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        if kind not in _PNG_HARMLESS and not (with_profile and kind == b"iCCP"):
            return False
        at += 12 + int.from_bytes(data[at : at + 4])
    return eight_bits_rgb and kind == b"IEND" and at == len(data)


def _plain_jpeg(data: bytes, with_profile: bool) -> bool:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        start = data[at + 4 : at + 16]
        # JFIF's segment is 16 bytes, unless it holds a thumbnail.
        jfif = marker == 0xE0 and start.startswith(b"JFIF\0") and length == 16
        profile = with_profile and marker == 0xE2 and start == b"ICC_PROFILE\0"
        if not (jfif or profile or marker in _JPEG_HARMLESS):
            return False
        at += 2 + length
        if marker == 0xDA:
            following = _JPEG_NEXT_MARKER.search(data, at)
            at = following.start() if following else len(data)
        if data.startswith(b"\xff\xd9", at):
            return at + 2 == len(data)
    return False


def _plain_webp(data: bytes, with_profile: bool) -> bool:
    at = 12
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind not in (b"VP8 ", b"VP8L", b"VP8X") and not (with_profile and kind == b"ICCP"):
            return False
        at += 8 + length + length % 2
    return at == len(data) == 8 + int.from_bytes(data[4:8], "little")
