"""Images, captions and masks to tune on, as a caller gives them and as tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from encoder.concepts.concept import Concept
from encoder.errors import ModelError
from encoder.images import preprocess, preprocess_batch
from encoder.placeholder import PLACEHOLDER, has_placeholder

Mask = Image.Image | Callable[[Image.Image], Image.Image]
"""An image that is white where the concept is, or a function that returns one for an image, such as a segmentation
network."""


@dataclass(frozen=True, kw_only=True)
class TuningImages:
    """Preprocessed images to tune on, and what is known about each."""

    pixels: Tensor
    """Images (N, 3, H, W) in [-1, 1]."""
    captions: Sequence[str] | None = None
    """One prompt per image that describes everything but the concept, with ``*s`` for the concept. Unless given, the
    templates of the conditioning config are used."""
    masks: Tensor | None = None
    """Loss weight of each pixel, (N, 1, H, W) in [0, 1], for example a segmented face (E4T, arXiv 2302.12228)."""

    def __post_init__(self) -> None:
        if self.masks is not None and not self.masks.flatten(1).any(dim=1).all():
            raise ModelError("a mask is black everywhere; give one that is white where the concept is")

    def latent_masks(self, latents: Tensor) -> Tensor | None:
        """Resize the masks to the height and width of ``latents``, on the same device and in the same precision."""
        return None if self.masks is None else F.interpolate(self.masks.to(latents), latents.shape[-2:], mode="area")


@dataclass(frozen=True, kw_only=True)
class TuningInputs:
    """Images of one concept to tune on, and what goes with them."""

    images: Sequence[Image.Image]
    """Images of any size; each is center-cropped and resized to the release's resolution."""
    captions: Sequence[str] | None = None
    """One prompt per image that describes everything but the concept: ``a portrait of a smiling *s``."""
    masks: Sequence[Mask] | None = None
    """One mask per image, of the image's size: only where it is white does the loss count."""
    init_concept: Concept | None = None
    """A concept whose learned token embedding is the starting point, as Textual Inversion leaves one."""
    class_images: Sequence[Image.Image] | None = None
    """Images of the domain that do not show the concept, for prior preservation. Unless given, the base model generates
    ``tune.num_class_images`` of them."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ModelError("there is no image to tune on; give at least one")
        if self.captions is not None and (
            len(self.captions) != len(self.images) or not all(map(has_placeholder, self.captions))
        ):
            raise ModelError(f"give one caption per image, each with {PLACEHOLDER} in place of the concept")
        if self.masks is not None and len(self.masks) != len(self.images):
            raise ModelError(
                f"give one mask per image, or a function; there are {len(self.masks)} for {len(self.images)}"
            )

    @classmethod
    def create(
        cls,
        image: Image.Image | Sequence[Image.Image],
        *,
        caption: str | Sequence[str] | None = None,
        mask: Mask | Sequence[Mask] | None = None,
        init_concept: Concept | None = None,
        class_images: Sequence[Image.Image] | None = None,
    ) -> "TuningInputs":
        """Create the inputs from one image or several; a single mask function applies to every image."""
        images = [image] if isinstance(image, Image.Image) else list(image)
        masks = [mask] * len(images) if callable(mask) else [mask] if isinstance(mask, Image.Image) else mask
        return cls(
            images=images,
            captions=[caption] if isinstance(caption, str) else caption or None,
            masks=masks,
            init_concept=init_concept,
            class_images=class_images,
        )

    def to_tensors(self, resolution: int, device: torch.device | str) -> TuningImages:
        """Crop and resize images and masks to ``resolution`` pixels. Raises ModelError for a mask of another size."""
        masks = self._preprocess_masks(resolution)
        return TuningImages(
            pixels=preprocess_batch(self.images, resolution).to(device),
            captions=self.captions,
            masks=None if masks is None else masks.to(device),
        )

    def _preprocess_masks(self, resolution: int) -> Tensor | None:
        if self.masks is None:
            return None
        pixels = []
        for mask, image in zip(self.masks, self.images, strict=True):
            mask_image = mask(image) if callable(mask) else mask
            if mask_image.size != image.size:
                raise ModelError(
                    f"a mask is {mask_image.size} pixels large, but its image {image.size}; give equal sizes"
                )
            pixels.append((preprocess(mask_image.convert("L"), resolution) + 1)[:, :1] / 2)
        return torch.cat(pixels)
