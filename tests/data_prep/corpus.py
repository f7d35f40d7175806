"""Odd and malformed image files, generated from a known image, with the expected outcome."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import PIL
import pillow_heif
import pillow_jxl  # noqa: F401 - registers itself with Pillow
from PIL import Image, ImageChops, ImageCms

pillow_heif.register_heif_opener()

Color = tuple[int, int, int]
Row = tuple[str, bytes, str | Color]

COLOR: Color = (200, 120, 40)
WHITE: Color = (255, 255, 255)
SIZE = (64, 48)
DAMAGED, UNKNOWN, BOMB, FRAMES = "truncated or damaged", "not an image", "too many pixels", "multiple frames"


@dataclass(frozen=True)
class Case:
    """A file with the expected reject reason or the expected mean color of the stored image."""

    name: str
    data: bytes
    expect: str | Color


@cache
def cases() -> list[Case]:
    """Return every file of the corpus; deterministic."""
    groups = (not_images, truncated, damaged, bombs, multiple_frames, depths, colors, metadata, containers, sizes)
    return [Case(*row) for group in groups for row in group()]


@cache
def encode_photo(format_name: str, **options: Any) -> bytes:
    """Encode the photo in a format."""
    return encode(photo(), format_name, **options)


def photo(color: Color = COLOR, size: tuple[int, int] = SIZE) -> Image.Image:
    """Return noise around a color: every part of the file matters, and the mean shows whether colors are right."""
    noise = np.random.default_rng(0).integers(-15, 16, (size[1], size[0], 3))
    return Image.fromarray((np.array(color) + noise).astype(np.uint8))


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """Build a PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(kind: bytes, body: bytes) -> bytes:
    """Encode the photo as PNG with one more chunk after the header."""
    return encode_photo("PNG")[:33] + chunk(kind, body) + encode_photo("PNG")[33:]


def png_of(width: int, height: int, depth: int, color: int, pixels: bytes = b"", *chunks: bytes) -> bytes:
    """Build a PNG that Pillow cannot write. ``pixels``: rows, each preceded by a zero byte (no filter)."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    )


def jpeg_with(marker: int, body: bytes) -> bytes:
    """Encode the photo as JPEG with one more segment after SOI."""
    segment = struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
    return encode_photo("JPEG")[:2] + segment + encode_photo("JPEG")[2:]


def without_segment(data: bytes, marker: int) -> bytes:
    """Remove the first segment with a marker from a JPEG."""
    at = data.index(bytes([0xFF, marker]))
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]


def overwrite(data: bytes, at: int, new: bytes) -> bytes:
    """Overwrite bytes at an offset."""
    return data[:at] + new + data[at + len(new) :]


def bgr_profile() -> bytes:
    """Return an sRGB profile with red and blue swapped, which reveals code that ignores profiles."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "sBGR".encode("utf-16-be"))
    end = 132 + 12 * int.from_bytes(profile[128:132])
    tags = profile[132:end].replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    return profile[:132] + tags + profile[end:]


def not_images() -> Iterator[Row]:
    yield "empty", b"", "empty file"
    yield "one byte", b"\xff", UNKNOWN
    yield "zeros", bytes(5000), UNKNOWN
    yield "text", b"This is not an image, whatever its name says.\n" * 10, UNKNOWN
    yield "an error page", b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>", UNKNOWN
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"><rect width="9" height="9"/></svg>'
    yield "svg", svg, UNKNOWN
    yield "pdf", encode(photo(), "PDF"), UNKNOWN
    yield "postscript, which Pillow passes to Ghostscript", encode(photo(), "EPS"), UNKNOWN
    yield "a program", b"\x7fELF\x02\x01\x01" + bytes(200), UNKNOWN
    yield "an archive", b"PK\x03\x04" + bytes(200), UNKNOWN
    yield "photoshop", b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 48, 64, 8, 3) + bytes(5000), UNKNOWN
    yield "icon", encode(photo(), "ICO"), UNKNOWN
    yield "metafile", b"\xd7\xcd\xc6\x9a" + bytes(100), UNKNOWN
    yield "heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300), DAMAGED


def truncated() -> Iterator[Row]:
    """Truncated files: at every boundary of their headers and in the middle of the pixels."""
    jpeg, png, webp, gif = (
        encode_photo("JPEG", quality=90),
        encode_photo("PNG"),
        encode_photo("WEBP"),
        encode_photo("GIF"),
    )
    yield "jpeg cut after SOI", jpeg[:2], UNKNOWN
    for name, marker in (("APP0", 0xE0), ("DQT", 0xDB), ("SOF", 0xC0), ("DHT", 0xC4), ("SOS", 0xDA)):
        at = jpeg.index(bytes([0xFF, marker]))
        yield f"jpeg cut before {name}", jpeg[:at], UNKNOWN if at == 2 else DAMAGED
        yield f"jpeg cut in {name}'s length", jpeg[: at + 3], DAMAGED
        yield f"jpeg cut inside {name}", jpeg[: at + 9], DAMAGED
    yield "jpeg cut before its pixels", jpeg[: jpeg.index(b"\xff\xda") + 14], DAMAGED
    yield "jpeg cut in the middle", jpeg[: len(jpeg) // 2], DAMAGED
    yield "jpeg cut in the middle and filled up with zeros", jpeg[: len(jpeg) // 2].ljust(len(jpeg), b"\0"), DAMAGED
    yield "jpeg cut before EOI", jpeg[:-2], DAMAGED
    yield "progressive jpeg cut in the middle", encode_photo("JPEG", progressive=True)[:-300], DAMAGED
    for name, end in (("signature", 8), ("IHDR's length", 12), ("IHDR", 20), ("IDAT's length", 37), ("IDAT", 2000)):
        yield f"png cut behind or in its {name}", png[:end], DAMAGED
    webp_parts = (("VP8 length", 18), ("frame header", 26), ("pixels", len(webp) // 2), ("last bytes", len(webp) - 4))
    for name, end in webp_parts:
        yield f"webp cut in its {name}", webp[:end], DAMAGED
    yield "webp cut in RIFF's header", webp[:10], UNKNOWN
    lossless = encode_photo("WEBP", lossless=True)
    yield "lossless webp cut in the middle", lossless[: len(lossless) // 2], DAMAGED
    for name, end in (("signature", 6), ("screen", 10), ("palette", 100), ("pixels", len(gif) // 2)):
        yield f"gif cut behind or in its {name}", gif[:end], DAMAGED
    tiff = encode_photo("TIFF")
    for name, end in (("signature", 4), ("header", 8), ("first tag", 14), ("pixels", len(tiff) - 100)):
        yield f"tiff cut behind or in its {name}", tiff[:end], DAMAGED
    for name, end in (("signature", 2), ("header", 20), ("pixels", 1000)):
        yield f"bmp cut behind or in its {name}", encode_photo("BMP")[:end], UNKNOWN if end == 2 else DAMAGED
    for name, end in (("signature", 12), ("header", 60), ("pixels", 2000)):
        yield f"jpeg 2000 cut behind or in its {name}", encode_photo("JPEG2000")[:end], DAMAGED
    yield "avif cut in the middle", encode_photo("AVIF")[: len(encode_photo("AVIF")) // 2], DAMAGED
    yield "ppm cut in its header", encode_photo("PPM")[:5], DAMAGED
    yield "ppm cut in its pixels", encode_photo("PPM")[:100], DAMAGED


def damaged() -> Iterator[Row]:
    jpeg, png, tiff = encode_photo("JPEG"), encode_photo("PNG"), encode_photo("TIFF")
    yield "png whose header fails its checksum", overwrite(png, 29, bytes(4)), DAMAGED
    yield "png with a hole", overwrite(png, 1000, bytes(40)), DAMAGED
    yield "png whose pixels fail their checksum", overwrite(png, len(png) - 20, bytes(4)), DAMAGED
    yield "png without pixels", png[:33] + chunk(b"IEND", b""), DAMAGED
    yield "png without IEND, pixels complete", png[:-12], COLOR
    yield "png of no height", png_of(64, 0, 8, 2), DAMAGED
    yield "png of a depth that does not exist", png_of(64, 48, 7, 2, bytes(48 * 193)), DAMAGED
    yield "jpeg of no height", overwrite(jpeg, jpeg.index(b"\xff\xc0") + 5, bytes(2)), DAMAGED
    yield "jpeg without quantization tables", without_segment(without_segment(jpeg, 0xDB), 0xDB), DAMAGED
    yield "jpeg without its first Huffman table, as in MJPEG", without_segment(jpeg, 0xC4), COLOR
    directory = int.from_bytes(tiff[4:8], "little")
    following = directory + 2 + 12 * int.from_bytes(tiff[directory : directory + 2], "little")
    yield "tiff with its directory out of bounds", overwrite(tiff, 4, b"\xff\xff\xff\x7f"), DAMAGED
    yield "tiff whose directory follows itself", overwrite(tiff, following, tiff[4:8]), COLOR
    yield "tiff with its next directory out of bounds", overwrite(tiff, following, b"\xff\xff\xff\x7f"), DAMAGED
    yield "tiff whose directory is its header", overwrite(tiff, 4, bytes(4)), DAMAGED
    yield "webp with a wrong length", overwrite(encode_photo("WEBP"), 4, b"\xff\xff\xff\x7f"), DAMAGED
    yield "bmp of a negative width", overwrite(encode_photo("BMP"), 18, b"\xff\xff\xff\xff"), BOMB


def bombs() -> Iterator[Row]:
    """Small files that would fill the memory if they were decoded."""
    jpeg, gif = encode_photo("JPEG"), encode_photo("GIF")
    at = jpeg.index(b"\xff\xc0") + 5
    yield "png of 900 million pixels", png_of(30_000, 30_000, 8, 2), BOMB
    yield "png of 2 million pixels, within Pillow's limit", png_of(2000, 1000, 1, 0), BOMB
    yield "png of 120 million pixels, where Pillow warns", png_of(12_000, 10_000, 8, 2), BOMB
    yield "png of 4 billion x 4 billion pixels", png_of(2**32 - 1, 2**32 - 1, 8, 2), BOMB
    yield "jpeg of 65500 x 65500 pixels", overwrite(jpeg, at, struct.pack(">HH", 65_500, 65_500)), BOMB
    yield "gif of 65535 x 65535 pixels", overwrite(gif, 6, b"\xff\xff\xff\xff"), BOMB
    yield "bmp of 60000 x 60000 pixels", overwrite(encode_photo("BMP"), 18, struct.pack("<ii", 60_000, 60_000)), BOMB
    yield "ppm of 99999 x 99999 pixels", b"P6 99999 99999 255\n" + bytes(100), BOMB
    bomb = zlib.compress(bytes(64_000_000), 9)
    yield "png with a text that inflates to 64 MB", png_with(b"zTXt", b"Comment\0\0" + bomb), DAMAGED
    yield "png with a profile that inflates to 64 MB", png_with(b"iCCP", b"profile\0\0" + bomb), DAMAGED
    yield "png whose pixels inflate to 64 MB", png_of(64, 48, 8, 2, bytes(64_000_000)), (0, 0, 0)


def multiple_frames() -> Iterator[Row]:
    film = [photo(), photo((10, 20, 200)), photo((0, 250, 0))]
    for name, format_name in (("gif", "GIF"), ("webp", "WEBP"), ("apng", "PNG"), ("tiff", "TIFF"), ("avif", "AVIF")):
        yield f"{name} of three frames", encode(film[0], format_name, save_all=True, append_images=film[1:]), FRAMES
    yield "phone jpeg followed by a preview (MPO)", encode(film[0], "MPO", save_all=True, append_images=film[1:]), COLOR


def depths() -> Iterator[Row]:
    """All bit depths."""
    level = np.full((48, 64), 120 * 257, np.uint16)
    grey = (120, 120, 120)
    rows = b"".join(b"\0" + struct.pack(">HHH", *(part * 257 for part in COLOR)) * 64 for _ in range(48))
    yield "png, 16 bits of grey", encode(Image.fromarray(level), "PNG"), grey
    yield "png, 16 bits of color", png_of(64, 48, 16, 2, rows), COLOR
    see_through = chunk(b"tRNS", struct.pack(">H", 120 * 257))
    rows = (b"\0" + level[:1].astype(">u2").tobytes()) * 48
    yield "png, 16 bits of grey, one level transparent", png_of(64, 48, 16, 0, rows, see_through), WHITE
    rows = (b"\0" + b"\x12\x34" * 3 * 64) * 48
    see_through = chunk(b"tRNS", b"\x12\x34" * 3)
    yield "png, 16 bits of color, one color transparent", png_of(64, 48, 16, 2, rows, see_through), WHITE
    for depth, row, shade in ((2, b"\xaa" * 16, 170), (4, b"\x22" * 32, 34)):
        pixels = (b"\0" + row) * 48
        png = png_of(64, 48, depth, 0, pixels, chunk(b"tRNS", b"\0\2"))
        yield f"png, {depth} bits of grey, one level transparent", png, WHITE
        png = png_of(64, 48, depth, 0, pixels, chunk(b"tRNS", b"\0\1"))
        yield f"png, {depth} bits of grey, another level transparent", png, (shade, shade, shade)
    yield "tiff, 16 bits of grey", encode(Image.fromarray(level), "TIFF"), grey
    yield "tiff, 32 bits that hold 16", encode(Image.fromarray(level.astype(np.int32)), "TIFF"), grey
    yield "tiff, 32 bits", encode(Image.fromarray(level.astype(np.int32) * 1000), "TIFF"), "more than 16 bits"
    yield "tiff, negative numbers", encode(Image.fromarray(-level.astype(np.int32)), "TIFF"), "more than 16 bits"
    yield "tiff of floats", encode(Image.fromarray(np.ones((48, 64), np.float32)), "TIFF"), "floating-point pixels"
    yield "pfm, floats", b"Pf\n64 48\n-1.0\n" + bytes(64 * 48 * 4), "floating-point pixels"
    yield "pgm, 10 bits", b"P5 64 48 1023\n" + np.full(64 * 48, 481, ">u2").tobytes(), grey
    yield "ppm, 2 bits", b"P6 64 48 3\n" + bytes([3, 2, 1]) * (64 * 48), (255, 170, 85)
    yield "ppm in ASCII", b"P3 64 48 255\n" + b"200 120 40\n" * (64 * 48), COLOR
    yield "png, 1 bit", encode(Image.new("1", SIZE, 1), "PNG"), WHITE
    yield "tiff, 1 bit, group 4", encode(Image.new("1", SIZE, 0), "TIFF", compression="group4"), (0, 0, 0)
    yield "png, 2 bits of grey", png_of(64, 48, 2, 0, (b"\0" + b"\xaa" * 16) * 48), (170, 170, 170)


def colors() -> Iterator[Row]:
    """Color spaces, palettes, transparency and profiles."""
    cmyk = photo().convert("CMYK")
    adobe = encode(cmyk, "JPEG", quality=95)
    yield "cmyk jpeg with Adobe marker, inverted", adobe, COLOR
    plain = without_segment(encode(ImageChops.invert(cmyk), "JPEG", quality=95), 0xEE)
    yield "cmyk jpeg without Adobe marker, not inverted", plain, COLOR
    light = ImageChops.invert(Image.merge("RGB", cmyk.split()[:3]).convert("YCbCr"))
    ycck = encode(Image.merge("CMYK", (*light.split(), cmyk.getchannel("K"))), "JPEG", quality=95)
    yield "ycck jpeg", overwrite(ycck, ycck.index(b"Adobe") + 11, b"\x02"), COLOR
    yield "cmyk tiff", encode(cmyk, "TIFF"), COLOR
    yield "grey jpeg", encode(photo().convert("L"), "JPEG"), (135, 135, 135)
    yield "jpeg of RGB", encode(photo(), "JPEG", keep_rgb=True), COLOR
    read = int(PIL.__version__.split(".")[0]) >= 13  # earlier versions report them as truncated
    yield "ycbcr tiff", encode(photo().convert("YCbCr"), "TIFF"), COLOR if read else "truncated or damaged"
    yield "lab tiff", lab_tiff(), COLOR
    yield "palette", encode(photo().quantize(64), "PNG"), COLOR
    yield "palette in a gif", encode_photo("GIF"), COLOR
    clear = photo().quantize(1)
    yield "palette, all transparent", encode(clear, "PNG", transparency=0), WHITE
    yield "palette, half transparent", encode(clear, "PNG", transparency=bytes([128])), (227, 187, 147)
    yield (
        "palette with fewer colors than the pixels use",
        png_of(64, 48, 8, 3, (b"\0" + b"\x05" * 64) * 48, chunk(b"PLTE", bytes(COLOR))),
        (0, 0, 0),
    )
    yield "gif, transparent", encode(clear, "GIF", transparency=0), WHITE
    yield "grey, one level transparent", encode(Image.new("L", SIZE, 7), "PNG", transparency=7), WHITE
    yield "rgb, one color transparent", encode(Image.new("RGB", SIZE, COLOR), "PNG", transparency=COLOR), WHITE
    yield "grey with alpha", encode(Image.new("LA", SIZE, (0, 0)), "PNG"), WHITE
    yield "rgb with alpha", encode(Image.new("RGBA", SIZE, (0, 0, 0, 128)), "PNG"), (127, 127, 127)
    yield "webp with alpha", encode(Image.new("RGBA", SIZE, (0, 0, 0, 0)), "WEBP"), WHITE
    yield "tiff with alpha", encode(Image.new("RGBA", SIZE, (*COLOR, 0)), "TIFF"), WHITE
    bgr = COLOR[::-1]
    for name, format_name in (("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("tiff", "TIFF")):
        yield f"{name} with a profile", encode(photo(bgr), format_name, icc_profile=bgr_profile()), COLOR
    yield "palette with a profile", encode(photo(bgr).quantize(64), "PNG", icc_profile=bgr_profile()), COLOR
    seen = Image.new("RGBA", SIZE, (*bgr, 255))
    yield "alpha with a profile", encode(seen, "PNG", icc_profile=bgr_profile()), COLOR
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    yield "profile of another color space", encode_photo("JPEG", icc_profile=lab), COLOR
    yield "broken profile", encode_photo("JPEG", icc_profile=b"no profile" * 30), COLOR
    yield "profile cut short", encode_photo("PNG", icc_profile=bgr_profile()[:300]), COLOR
    yield (
        "profile with tags out of bounds",
        encode_photo("PNG", icc_profile=overwrite(bgr_profile(), 132, b"\xff" * 60)),
        COLOR,
    )


def lab_tiff() -> bytes:
    """Encode the photo as CIE L*a*b* TIFF."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(photo(), srgb, lab, outputMode="LAB")
    assert image is not None
    image.info = {}
    return encode(image, "TIFF")


def metadata() -> Iterator[Row]:
    """Metadata, valid and invalid."""
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"jpeg, orientation {orientation}", encode_photo("JPEG", exif=exif.tobytes()), COLOR
    yield "exif of 60 kB", encode_photo("JPEG", exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08" + bytes(60_000)), COLOR
    yield "exif whose directory is itself", encode_photo("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\x08"), COLOR
    looped = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHII", 0x8769, 4, 1, 8) + b"\0\0\0\x08"
    yield "exif that points at itself", encode_photo("JPEG", exif=b"Exif\0\0" + looped), COLOR
    yield "exif with an offset out of bounds", encode_photo("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"), COLOR
    yield "exif cut short", encode_photo("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x63\x01"), COLOR
    turned = Image.Exif()
    turned[0x0112] = 6
    png = encode_photo("PNG")
    yield "exif after the pixels of a png", png[:-12] + chunk(b"eXIf", turned.tobytes()[6:]) + png[-12:], COLOR
    yield "tiff with orientation 6", encode(photo(), "TIFF", tiffinfo={0x0112: 6}), COLOR
    yield "webp with orientation 6", encode_photo("WEBP", exif=turned.tobytes()), COLOR
    yield "xmp", jpeg_with(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="9"/>'), COLOR
    yield "iptc", jpeg_with(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"), COLOR
    yield "a comment", jpeg_with(0xFE, b"taken at home"), COLOR
    yield "frame index without frames", jpeg_with(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\0\0\0\0\0"), COLOR
    yield "corrupt frame index", jpeg_with(0xE2, b"MPF\0MM\0*\xff\xff\xff\xff"), COLOR
    yield "a text", png_with(b"tEXt", b"Comment\0hello"), COLOR
    yield "frame count of zero", png_with(b"acTL", bytes(8)), COLOR
    yield "unknown chunk", png_with(b"quUX", bytes(100)), COLOR


def containers() -> Iterator[Row]:
    jpeg, png = encode_photo("JPEG"), encode_photo("PNG")
    yield "jpeg with trailing data", jpeg + b"behind" * 100, COLOR
    yield "png with trailing data", png + b"behind" * 100, COLOR
    yield "webp with trailing data", encode_photo("WEBP") + b"behind" * 100, COLOR
    yield "two jpegs in one file", jpeg + encode(photo((0, 0, 255)), "JPEG"), COLOR
    yield "jpeg with leading data", b"\n" + jpeg, UNKNOWN
    yield "jpeg with fill bytes before its segments", jpeg[:2] + b"\xff" * 9 + jpeg[2:], COLOR
    yield "progressive jpeg", encode_photo("JPEG", progressive=True), COLOR
    yield "jpeg with restarts", encode_photo("JPEG", restart_marker_blocks=2), COLOR
    yield "lossless webp", encode_photo("WEBP", lossless=True), COLOR
    yield "avif", encode_photo("AVIF"), COLOR
    yield "jpeg 2000", encode_photo("JPEG2000"), COLOR
    yield "heif", encode_photo("HEIF"), COLOR
    yield "heif cut short", encode_photo("HEIF")[:-100], DAMAGED
    yield "jpeg xl", encode_photo("JXL"), COLOR
    yield "jpeg xl, lossless, with alpha", encode(Image.new("RGBA", SIZE, (0, 0, 0, 0)), "JXL", lossless=True), WHITE
    yield "jpeg xl cut short", encode_photo("JXL")[:-50], DAMAGED
    yield "tga", encode_photo("TGA"), COLOR
    yield "tga, compressed", encode_photo("TGA", compression="tga_rle"), COLOR
    yield "jpeg 2000 without its box", encode(photo(), "JPEG2000", no_jp2=True), COLOR
    yield "tiff, lzw", encode_photo("TIFF", compression="tiff_lzw"), COLOR
    yield "tiff, jpeg", encode_photo("TIFF", compression="jpeg"), COLOR
    yield "tiff, big", encode_photo("TIFF", big_tiff=True), COLOR
    yield "bmp, bottom-up rows", encode_photo("BMP"), COLOR
    yield "bmp, unknown compression", overwrite(encode_photo("BMP"), 30, b"\x63\0\0\0"), DAMAGED


def sizes() -> Iterator[Row]:
    yield "1 x 1", encode(Image.new("RGB", (1, 1)), "PNG"), "too small"
    yield "1 x 5000", encode(Image.new("RGB", (1, 5000)), "PNG"), "too small"
    yield "7 x 64", encode(Image.new("RGB", (7, 64)), "JPEG"), "too small"
    yield "8 x 81", encode(Image.new("RGB", (8, 81)), "PNG"), "aspect ratio"
    yield "8 x 80", encode(Image.new("RGB", (8, 80), COLOR), "PNG"), COLOR
    yield "8 x 8", encode(Image.new("RGB", (8, 8), COLOR), "JPEG"), COLOR
    yield "1000 x 999, downscaled while decoding", encode(photo(size=(1000, 999)), "JPEG"), COLOR
