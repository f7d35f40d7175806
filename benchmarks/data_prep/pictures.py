"""Drawn photographs for the benchmarks of `e4t prepare`: see benchmarks/data_prep/run.py for how to run them.

They stand for real ones in what costs time: their size, and their spectrum, which decides what decoding and encoding
take. A photograph's amplitudes fall with the frequency (Field, "Relations between the statistics of natural images",
1987), and it has edges, smooth gradients, colours that vary less than the light, and the grain of a sensor.
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
    """What a set's pictures are like."""

    size: tuple[int, int]
    """Width and height, in pixels."""
    suffix: str
    """Of the files: png or jpg."""
    options: dict[str, Any]
    """How Pillow saves them."""


KINDS = {
    "ffhq": Kind(size=(1024, 1024), suffix="png", options={}),
    "web": Kind(size=(1024, 1024), suffix="jpg", options={"quality": 92}),
    "camera": Kind(size=(3000, 2000), suffix="jpg", options={"quality": 92}),
    "celeba": Kind(size=(178, 218), suffix="jpg", options={"quality": 92}),
}
"""Sets that people have: faces as PNG, pictures of the web, a camera's files, small faces."""

PICTURES_OF_ONE = 4
"""Pictures of an identity."""


def draw_tree(root: Path, kind: Kind, count: int, seed: int = 0) -> Path:
    """``count`` pictures as ``root/identity/picture``; the same seed gives the same ones."""
    for number in range(count):
        identity, picture = divmod(number, PICTURES_OF_ONE)
        folder = root / f"person{identity:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        photograph(kind.size, seed * 1_000_003 + number).save(folder / f"{picture}.{kind.suffix}", **kind.options)
    return root


def photograph(size: tuple[int, int], seed: int) -> Image.Image:
    """An RGB picture with the spectrum of a photograph."""
    random = np.random.default_rng(seed)
    width, height = size
    light = _texture(random, width, height) * 30 + _slope(random, width, height) * 60 + random.uniform(90, 150)
    tints = _small_texture(random, width, height), _small_texture(random, width, height)
    red, blue = (light + tint * 12 for tint in tints)
    picture = np.stack([red, light, blue], axis=-1)
    picture = _with_shapes(picture, random)
    picture += random.standard_normal((height, width, 1), dtype=np.float32) * 1.5
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _texture(random: np.random.Generator, width: int, height: int) -> Plane:
    """Noise whose amplitude falls as 1 / frequency^1.35; mean 0, deviation 1."""
    white = np.fft.rfft2(random.standard_normal((height, width), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    frequency[0, 0] = np.inf
    plane = np.fft.irfft2(white / frequency**1.35, s=(height, width))
    texture: Plane = (plane / plane.std()).astype(np.float32)
    return texture


def _small_texture(random: np.random.Generator, width: int, height: int) -> Plane:
    """The same at an eighth of the size: colours change more slowly than the light."""
    plane = _texture(random, max(8, width // 8), max(8, height // 8))
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))


def _slope(random: np.random.Generator, width: int, height: int) -> Plane:
    """A gradient across the picture, from about -1 to 1."""
    angle = random.uniform(0, 2 * np.pi)
    across, down = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    slope: Plane = (np.cos(angle) * across + np.sin(angle) * down).astype(np.float32)
    return slope


def _with_shapes(picture: Plane, random: np.random.Generator) -> Plane:
    """A dozen shapes with hard edges over the picture, through which its texture shows."""
    height, width = picture.shape[:2]
    layer = Image.new("RGB", (width, height), (0, 0, 0))
    pen = ImageDraw.Draw(layer)
    draws: list[Callable[..., None]] = [pen.ellipse, pen.rectangle]
    for shape in range(12):
        left, top = random.uniform(-0.2, 0.9, 2) * (width, height)
        right, bottom = (left, top) + random.uniform(0.05, 0.5, 2) * (width, height)
        draws[shape % 2]((left, top, right, bottom), fill=tuple(int(value) for value in random.integers(1, 256, 3)))
    colors = np.asarray(layer, dtype=np.float32)
    inside = colors.any(axis=-1, keepdims=True)
    return np.where(inside, 0.4 * picture + 0.6 * colors, picture).astype(np.float32)
