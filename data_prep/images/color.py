"""Convert pixels of any mode, bit depth and color profile to 8-bit sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageCms

UINT16_MAX = 65_535


class ColorError(ValueError):
    """Raised for pixels without a well-defined 8-bit value; the message becomes the reject reason."""


def to_8bit_opaque(image: Image.Image) -> Image.Image:
    """Convert an image to 8 bits per channel in mode L, RGB, CMYK or LAB, and composite transparency on white.

    The color space stays that of the file and its profile stays in ``info``: the image can be resized first, so that
    ``to_srgb`` has fewer pixels to convert. Raises ColorError.
    """
    if image.mode == "F":
        raise ColorError("floating-point pixels")
    if image.mode == "I" or image.mode.startswith("I;"):
        return _to_8bit_gray(image)
    if image.has_transparency_data:
        return _composite_on_white(image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Adobe stores inverted ink values and marks the file. Pillow assumes the inversion for every CMYK JPEG.
        inverted = ImageChops.invert(image)
        inverted.info = image.info
        return inverted
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def scale_transparent_color(image: Image.Image) -> None:
    """Give the transparent color of a PNG that was just opened the depth of its pixels after decoding.

    Pillow scales pixels of 2 and 4 bits up to 8 bits and those of 16-bit RGB down, but not the color in ``info``.
    """
    transparent = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or transparent is None or not tiles:
        return
    raw_mode = tiles[0].args
    if raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = transparent * (85 if raw_mode == "L;2" else 17)
    elif raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in transparent)


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert an image of ``to_8bit_opaque``, with its profile in ``info``, to RGB in sRGB without metadata.

    An image that already is in sRGB is not copied, and loses its metadata.
    """
    transform = _srgb_transform(image.info.get("icc_profile") or b"", image.mode)
    if transform is not None:
        rgb = transform.apply(image)
    elif image.mode == "RGB":
        rgb = image
    else:
        rgb = image.convert("RGB")
    # Encoders copy profiles and comments from ``info`` into the file.
    rgb.info = {}
    return rgb


@lru_cache(maxsize=16)
def is_srgb(profile: bytes) -> bool:
    """Return whether an ICC profile is empty or describes sRGB under one of its names."""
    if not profile:
        return True
    try:
        description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return False
    # "sRGB IEC61966-2.1", "sRGB built-in", "sRGB"; but neither "Linear sRGB" nor "sRGB-elle-V2-g10", which is linear.
    return description.split(" ")[0] == "sRGB"


def _to_8bit_gray(image: Image.Image) -> Image.Image:
    """Convert 16-bit grayscale to mode L; wider integers are accepted if their values fit into 16 bits."""
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
    # Grayscale stays grayscale, because its profile, if any, is for one channel.
    is_gray = image.mode in ("1", "L", "LA", "La")
    with_alpha = image.convert("LA" if is_gray else "RGBA")
    composite = Image.new("L" if is_gray else "RGB", with_alpha.size, "white")
    composite.paste(with_alpha.convert(composite.mode), mask=with_alpha.getchannel("A"))
    composite.info = {"icc_profile": image.info.get("icc_profile")}
    return composite


@lru_cache(maxsize=16)
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile's colors to sRGB, or None if the values are used unchanged.

    They are used unchanged if the profile is sRGB, malformed, or made for other channels. Little CMS can apply a
    transform in several threads at once, so all threads share the cached one.
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
