"""Images, captions and masks to tune on are checked and preprocessed."""

import pytest
import torch
from PIL import Image

from encoder.errors import ModelError
from encoder.tuning.inputs import TuningInputs

WHITE, GRAY = Image.new("RGB", (8, 6), "white"), Image.new("RGB", (4, 4), "gray")


def test_a_single_image_caption_and_mask_become_lists() -> None:
    mask = Image.new("L", WHITE.size, 255)
    inputs = TuningInputs.create(WHITE, caption="a *s", mask=mask)
    assert (inputs.images, inputs.captions, inputs.masks) == ([WHITE], ["a *s"], [mask])


def test_images_and_masks_are_cropped_and_resized() -> None:
    tensors = TuningInputs.create([WHITE, GRAY], mask=lambda image: Image.new("L", image.size, 255)).to_tensors(
        4, "cpu"
    )
    assert (tensors.pixels.shape, tensors.masks.shape) == ((2, 3, 4, 4), (2, 1, 4, 4))
    assert torch.equal(tensors.pixels[0], torch.ones(3, 4, 4))
    assert torch.equal(tensors.masks, torch.ones(2, 1, 4, 4))


@pytest.mark.parametrize("captions", [["a *s"], ["a *s", "a face"], ["a *s", "a *s", "a *s"]])
def test_captions_must_be_one_per_image_and_hold_the_placeholder(captions: list[str]) -> None:
    with pytest.raises(ModelError, match=r"one caption per image, each with \*s"):
        TuningInputs(images=[WHITE, GRAY], captions=captions)


def test_no_image_is_refused() -> None:
    with pytest.raises(ModelError, match="no image to tune on"):
        TuningInputs(images=[])
