"""Colour: what a file's numbers mean, told in sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageCms

UINT16_MAX = 65_535


class ColorError(ValueError):
    """Pixels that have no one meaning in 8 bits; the message is a reason to keep a picture out."""


def to_8bit_opaque(image: Image.Image) -> Image.Image:
    """8 bits a channel and opaque, in mode L, RGB, CMYK or LAB; what is transparent shows white.

    The colour space stays the file's own and its profile stays in ``info``, so that the picture can be resized before
    ``to_srgb`` has to look at every pixel. Raises ColorError.
    """
    if image.mode == "F":
        raise ColorError("floating-point pixels")
    if image.mode == "I" or image.mode.startswith("I;"):
        return _to_8bit_gray(image)
    if image.has_transparency_data:
        return _composite_on_white(image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Adobe stores ink upside down and says so. Pillow takes every JPEG of CMYK for one of Adobe's.
        inverted = ImageChops.invert(image)
        inverted.info = image.info
        return inverted
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def to_srgb(image: Image.Image) -> Image.Image:
    """RGB in sRGB, without metadata. ``image`` is as ``flatten`` gives it, with the profile in ``info``."""
    transform = _srgb_transform(image.info.get("icc_profile") or b"", image.mode)
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


def _to_8bit_gray(image: Image.Image) -> Image.Image:
    """Grey of 16 bits to L; wider integers too, as long as they only hold 16 bits."""
    levels = np.array(image, dtype=np.int64)
    if levels.min() < 0 or levels.max() > UINT16_MAX:
        raise ColorError("more than 16 bits")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels[levels == transparent] = UINT16_MAX
    gray = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    gray.info = {"icc_profile": image.info.get("icc_profile")}
    return gray


def _composite_on_white(image: Image.Image) -> Image.Image:
    # Grey stays grey: its profile, if there is one, is for one channel.
    is_gray = image.mode in ("1", "L", "LA", "La")
    with_alpha = image.convert("LA" if is_gray else "RGBA")
    composite = Image.new("L" if is_gray else "RGB", with_alpha.size, "white")
    composite.paste(with_alpha.convert(composite.mode), mask=with_alpha.getchannel("A"))
    composite.info = {"icc_profile": image.info.get("icc_profile")}
    return composite


@lru_cache(maxsize=16)
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
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
