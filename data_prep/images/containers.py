"""Check by walking a file's container that it holds pixels only; unknown parts count as metadata."""

import re

_PNG_PIXEL_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND", b"sRGB", b"gAMA", b"cHRM", b"pHYs"})
_JPEG_PIXEL_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xEE})
"""Frames, tables, scans, restart interval and Adobe's color transform; not APP1 (EXIF, XMP), APP13 or comments."""
_JPEG_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def holds_only_pixels(data: bytes, format_name: str, *, allow_icc_profile: bool) -> bool:
    """Return whether a complete JPEG, PNG or WebP has 8-bit colors, no metadata, and no data after its end.

    With ``allow_icc_profile`` a color profile is accepted; the caller has checked which one it is.
    """
    if format_name == "PNG":
        return _png_holds_only_pixels(data, allow_icc_profile)
    if format_name == "JPEG":
        return _jpeg_holds_only_pixels(data, allow_icc_profile)
    return format_name == "WEBP" and _webp_holds_only_pixels(data, allow_icc_profile)


def _png_holds_only_pixels(data: bytes, allow_icc_profile: bool) -> bool:
    eight_bits_rgb = data[24:26] == b"\x08\x02"
    offset, chunk_type = 8, b""
    while chunk_type != b"IEND" and offset + 12 <= len(data):
        chunk_type = data[offset + 4 : offset + 8]
        if chunk_type not in _PNG_PIXEL_CHUNKS and not (allow_icc_profile and chunk_type == b"iCCP"):
            return False
        offset += 12 + int.from_bytes(data[offset : offset + 4])
    return eight_bits_rgb and chunk_type == b"IEND" and offset == len(data)


def _jpeg_holds_only_pixels(data: bytes, allow_icc_profile: bool) -> bool:
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker, length = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4])
        start = data[offset + 4 : offset + 16]
        # JFIF's segment is 16 bytes, unless it holds a thumbnail.
        jfif = marker == 0xE0 and start.startswith(b"JFIF\0") and length == 16
        profile = allow_icc_profile and marker == 0xE2 and start == b"ICC_PROFILE\0"
        if not (jfif or profile or marker in _JPEG_PIXEL_MARKERS):
            return False
        offset += 2 + length
        if marker == 0xDA:
            following = _JPEG_NEXT_MARKER.search(data, offset)
            offset = following.start() if following else len(data)
        if data.startswith(b"\xff\xd9", offset):
            return offset + 2 == len(data)
    return False


def _webp_holds_only_pixels(data: bytes, allow_icc_profile: bool) -> bool:
    offset = 12
    while offset + 8 <= len(data):
        chunk_type, length = data[offset : offset + 4], int.from_bytes(data[offset + 4 : offset + 8], "little")
        if chunk_type not in (b"VP8 ", b"VP8L", b"VP8X") and not (allow_icc_profile and chunk_type == b"ICCP"):
            return False
        offset += 8 + length + length % 2
    return offset == len(data) == 8 + int.from_bytes(data[4:8], "little")
