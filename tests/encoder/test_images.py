"""Conversion between images and tensors. The expected values are written out, so that an update of diffusers shows."""

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.errors import ModelError
from encoder.images import center_crop, preprocess, preprocess_batch, to_images


def random_image(width: int, height: int) -> Image.Image:
    values = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(width))
    return Image.fromarray(values.to(torch.uint8).numpy())


def test_preprocessing_crops_resizes_and_scales_bit_for_bit() -> None:
    image = random_image(100, 70)
    resized = image.crop((15, 0, 85, 70)).resize((64, 64), Image.Resampling.LANCZOS)
    expected = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert torch.equal(preprocess(image, 64), expected)


def test_a_square_image_of_the_right_size_is_not_resampled() -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert torch.equal(preprocess(image, 16), expected)


def test_images_of_different_sizes_become_one_batch() -> None:
    images = [random_image(40, 30), random_image(33, 50)]
    assert torch.equal(preprocess_batch(images, 16), torch.cat([preprocess(image, 16) for image in images]))


def test_an_image_with_transparency_is_cropped_to_rgb() -> None:
    assert center_crop(random_image(30, 20).convert("RGBA")).mode == "RGB"


def test_tensors_become_images_rounded_and_clamped() -> None:
    pixels = torch.randn(2, 3, 32, 32)
    expected = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(np.array(image), array) for image, array in zip(to_images(pixels), expected, strict=True))


def test_an_image_survives_the_way_to_a_tensor_and_back() -> None:
    image = random_image(24, 24)
    assert np.array_equal(np.array(to_images(preprocess(image, 24))[0]), np.array(image))


def test_pixels_that_are_not_finite_become_no_image() -> None:
    pixels = torch.zeros(2, 3, 4, 4)
    pixels[1, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match="generated images: image 1 holds values that are not finite"):
        to_images(pixels)
