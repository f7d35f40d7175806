"""Colour: what a file's numbers mean, told in sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageCms

SIXTEEN_BITS = 65_535


class ColorError(ValueError):
    """Pixels that have no one meaning in 8 bits; the message is a reason to keep a picture out."""


def flatten(image: Image.Image) -> Image.Image:
    """8 bits a channel and opaque, in mode L, RGB, CMYK or LAB; what is transparent shows white.

    The colour space stays the file's own and its profile stays in ``info``, so that the picture can be resized before
    ``to_srgb`` has to look at every pixel. Raises ColorError.
    """
    if image.mode == "F":
        raise ColorError("floating-point pixels")
    if image.mode == "I" or image.mode.startswith("I;"):
        return _scaled_to_8_bits(image)
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Adobe stores ink upside down and says so. Pillow takes every JPEG of CMYK for one of Adobe's.
        plain = ImageChops.invert(image)
        plain.info = image.info
        return plain
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def to_srgb(image: Image.Image) -> Image.Image:
    """RGB in sRGB, without metadata. ``image`` is as ``flatten`` gives it, with the profile in ``info``."""
    transform = _transform(image.info.get("icc_profile") or b"", image.mode)
    rgb = image.convert("RGB") if transform is None else transform.apply(image)
    # Writers copy profiles, comments and the like from here.
    rgb.info = {}
    return rgb


@lru_cache(maxsize=16)
def is_srgb(profile: bytes) -> bool:
    """Whether an ICC profile is sRGB under one of its names, or nothing at all."""
    if not profile:
        return True
    try:
        description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return False
    # "sRGB IEC61966-2.1", "sRGB built-in", "sRGB"; but neither "Linear sRGB" nor "sRGB-elle-V2-g10", which is linear.
    return description.split(" ")[0] == "sRGB"


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits to L; wider integers too, as long as they only hold 16 bits."""
    levels = np.array(image, dtype=np.int64)
    if levels.min() < 0 or levels.max() > SIXTEEN_BITS:
        raise ColorError("more than 16 bits")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels[levels == transparent] = SIXTEEN_BITS
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    grey.info = {"icc_profile": image.info.get("icc_profile")}
    return grey


def _over_white(image: Image.Image) -> Image.Image:
    # Grey stays grey: its profile, if there is one, is for one channel.
    grey = image.mode in ("1", "L", "LA", "La")
    cover = image.convert("LA" if grey else "RGBA")
    white = Image.new("L" if grey else "RGB", cover.size, "white")
    white.paste(cover.convert(white.mode), mask=cover.getchannel("A"))
    white.info = {"icc_profile": image.info.get("icc_profile")}
    return white


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From the profile's colours to sRGB; None where the numbers can stand as they are.

    That is so for sRGB itself, and the best that can be done with a profile that is broken or for other channels.
    Little CMS applies one transform in many threads at once, so it is built once for all.
    """
    try:
        if mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif not is_srgb(profile):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            return None
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.ImageCmsTransform(source, target, mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
