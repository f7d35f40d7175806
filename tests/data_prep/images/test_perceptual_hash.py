import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from data_prep.images.perceptual_hash import perceptual_hash

PHOTOGRAPHS = range(20)


def photograph(seed: int, side: int = 256) -> Image.Image:
    """Generate an image whose amplitudes fall with the frequency as in photographs, with some edges."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) * side
    frequency[0, 0] = np.inf
    light = np.fft.irfft2(np.fft.rfft2(random.standard_normal((side, side))) / frequency**1.3, s=(side, side))
    image = np.repeat((128 + 40 * light / light.std())[..., None], 3, axis=2)
    for _ in range(5):
        left, top, width, height = random.integers(0, side // 2, 4)
        image[top : top + height, left : left + width] += random.uniform(-60, 60, 3)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def distance(one: Image.Image, other: Image.Image) -> int:
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: image.resize((64, 64), Image.Resampling.LANCZOS), id="smaller"),
        pytest.param(lambda image: image.resize((700, 700), Image.Resampling.BICUBIC), id="larger"),
        pytest.param(lambda image: compressed(image, 50), id="compressed"),
        pytest.param(lambda image: compressed(image.resize((100, 100)), 60), id="smaller and compressed"),
        pytest.param(lambda image: image.point(lambda value: value + 8), id="lighter"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(0.93), id="darker"),
        pytest.param(lambda image: image.convert("L"), id="grayscale"),
    ],
)
def test_an_edited_copy_differs_in_at_most_four_bits(change: Callable[[Image.Image], Image.Image]) -> None:
    assert max(distance(photograph(seed), change(photograph(seed))) for seed in PHOTOGRAPHS) <= 4


def test_hashes_of_different_images_are_far_apart() -> None:
    hashes = [perceptual_hash(photograph(seed)) for seed in PHOTOGRAPHS]
    assert min((one ^ other).bit_count() for index, one in enumerate(hashes) for other in hashes[:index]) > 10


def test_a_mirrored_image_has_another_hash() -> None:
    image = photograph(0)
    assert distance(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 10


def test_a_gradient_in_one_direction_gives_bits() -> None:
    across = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1)))
    assert distance(across, across.transpose(Image.Transpose.ROTATE_90)) > 0


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (203, 17, 90)])
def test_the_hash_of_a_flat_image_is_0_after_any_compression(color: tuple[int, int, int]) -> None:
    flat = Image.new("RGB", (512, 512), color)
    assert {perceptual_hash(image) for image in (flat, compressed(flat, 90), compressed(flat, 20))} == {0}


def test_grain_on_a_flat_image_gives_no_bits() -> None:
    grain = np.random.default_rng(0).normal(128, 5, (512, 512)).astype(np.uint8)
    assert perceptual_hash(compressed(Image.fromarray(grain), 50)) == 0


def test_hashes_equal_those_of_the_first_version() -> None:
    down, across = np.mgrid[:64, :64]
    image = Image.fromarray(((down * across + 3 * down) % 256).astype(np.uint8))
    assert f"{perceptual_hash(image):016x}" == "0400030f3f3f7f3c"
