"""Synthetic photographs for the benchmarks of `e4t prepare`; see benchmarks/data_prep/run.py.

They resemble real photographs in what determines the processing time: size, and spectrum, on which decoding and
encoding depend. Amplitudes fall with the frequency (Field, "Relations between the statistics of natural images", 1987),
and there are edges, smooth gradients, chroma that varies less than luma, and sensor noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Plane = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Properties of the images of a dataset."""

    size: tuple[int, int]
    """Width and height in pixels."""
    suffix: str
    """Suffix of the files: png or jpg."""
    options: dict[str, Any]
    """Options for Pillow's ``save``."""


KINDS = {
    "ffhq": Kind(size=(1024, 1024), suffix="png", options={}),
    "web": Kind(size=(1024, 1024), suffix="jpg", options={"quality": 92}),
    "camera": Kind(size=(3000, 2000), suffix="jpg", options={"quality": 92}),
    "celeba": Kind(size=(178, 218), suffix="jpg", options={"quality": 92}),
}
"""Typical datasets: faces as PNG, images from the web, camera files, small faces."""

IMAGES_PER_IDENTITY = 4


def write_images(root: Path, kind: Kind, count: int, seed: int = 0) -> Path:
    """Write ``count`` images as ``root/identity/image``; the same seed gives the same images."""
    for number in range(count):
        identity, image = divmod(number, IMAGES_PER_IDENTITY)
        folder = root / f"person{identity:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        photograph(kind.size, seed * 1_000_003 + number).save(folder / f"{image}.{kind.suffix}", **kind.options)
    return root


def photograph(size: tuple[int, int], seed: int) -> Image.Image:
    """Return an RGB image with the spectrum of a photograph."""
    random = np.random.default_rng(seed)
    width, height = size
    light = _texture(random, width, height) * 30 + _gradient(random, width, height) * 60 + random.uniform(90, 150)
    tints = _small_texture(random, width, height), _small_texture(random, width, height)
    red, blue = (light + tint * 12 for tint in tints)
    image = np.stack([red, light, blue], axis=-1)
    image = _with_shapes(image, random)
    image += random.standard_normal((height, width, 1), dtype=np.float32) * 1.5
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def _texture(random: np.random.Generator, width: int, height: int) -> Plane:
    """Return noise (H, W) whose amplitude falls as 1 / frequency^1.35, with mean 0 and standard deviation 1."""
    white = np.fft.rfft2(random.standard_normal((height, width), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    frequency[0, 0] = np.inf
    plane = np.fft.irfft2(white / frequency**1.35, s=(height, width))
    texture: Plane = (plane / plane.std()).astype(np.float32)
    return texture


def _small_texture(random: np.random.Generator, width: int, height: int) -> Plane:
    """Return the same noise upsampled from an eighth of the size, as chroma varies more slowly than luma."""
    plane = _texture(random, max(8, width // 8), max(8, height // 8))
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))


def _gradient(random: np.random.Generator, width: int, height: int) -> Plane:
    """Return a gradient (H, W) from about -1 to 1 in a random direction."""
    angle = random.uniform(0, 2 * np.pi)
    across, down = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    gradient: Plane = (np.cos(angle) * across + np.sin(angle) * down).astype(np.float32)
    return gradient


def _with_shapes(image: Plane, random: np.random.Generator) -> Plane:
    """Blend a dozen shapes with hard edges into the image, keeping its texture visible."""
    height, width = image.shape[:2]
    layer = Image.new("RGB", (width, height), (0, 0, 0))
    pen = ImageDraw.Draw(layer)
    draws: list[Callable[..., None]] = [pen.ellipse, pen.rectangle]
    for shape in range(12):
        left, top = random.uniform(-0.2, 0.9, 2) * (width, height)
        right, bottom = (left, top) + random.uniform(0.05, 0.5, 2) * (width, height)
        draws[shape % 2]((left, top, right, bottom), fill=tuple(int(value) for value in random.integers(1, 256, 3)))
    colors = np.asarray(layer, dtype=np.float32)
    inside = colors.any(axis=-1, keepdims=True)
    return np.where(inside, 0.4 * image + 0.6 * colors, image).astype(np.float32)
