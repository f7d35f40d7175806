"""Validate weights on held-out images during training: the denoising loss, and a grid of sampled images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from PIL import Image

from data_prep.shards.reader import Sample, ShardReader
from encoder.backbone.backbone import Backbone
from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import EncodedToken
from encoder.images import to_images
from encoder.model.conditioning import Conditioning
from encoder.model.features import class_tokens, encode_images
from encoder.model.sampling import seeded_generators
from encoder.model.weight_offsets import applied_offsets, offset_scope
from encoder.pipeline import E4TPipeline
from pipelines.config.recipe import Recipe
from pipelines.pretraining.checkpoints.state import Tensors
from pipelines.pretraining.model import DomainModel, sample_noise
from pipelines.runtime.image_grid import labeled_grid

GRID_ROWS = 6
"""Validation images in the grid."""


@dataclass(frozen=True)
class Validation:
    """Evaluate weights on the validation split.

    Noise, timesteps and initial latents come from fixed seeds, and the global random state is not changed, so that
    validation does not affect training.
    """

    recipe: Recipe
    backbone: Backbone
    conditioning: Conditioning

    def evaluate(self, weights: Tensors) -> tuple[float, Image.Image]:
        """Return the mean denoising loss, and a grid of validation images beside images generated without tuning.

        The UNet is shared with training; weight offsets that are applied here are removed again.
        """
        model = self._build_model(weights)
        with encoders_on_device(self.backbone), offset_scope(self.backbone.unet), torch.no_grad():
            return self._loss(model), self._grid(model)

    def _loss(self, model: DomainModel) -> float:
        samples = self._samples()
        pixels = torch.stack([sample.image for sample in samples])
        noise = sample_noise(self.recipe, self.backbone, list(range(len(samples))))
        prompts = self.conditioning.sample_prompts([sample.caption for sample in samples], noise.prompt_choice)
        size = self.recipe.pretrain.micro_batch_size
        total = 0.0
        for start in range(0, len(samples), size):
            rows = slice(start, start + size)
            images = encode_images(self.backbone, pixels[rows])
            total += float(model(images, prompts[rows], noise[rows], 0.0).denoising) * len(pixels[rows])
        return total / len(samples)

    def _grid(self, model: DomainModel) -> Image.Image:
        samples = list(islice(self._reader(), GRID_ROWS))
        with applied_offsets(self.backbone.unet, model.offsets()):
            return _draw_grid(model, samples, self.recipe, self.backbone, self.conditioning)

    def _reader(self) -> ShardReader:
        return ShardReader(self.recipe.data.output, "val", self.recipe.stream)

    def _samples(self) -> list[Sample]:
        reader, count = self._reader(), self.recipe.pretrain.eval_samples
        step = max(1, len(reader) // count)
        return [reader[index] for index in range(0, len(reader), step)][:count]

    def _build_model(self, weights: Tensors) -> DomainModel:
        with torch.random.fork_rng():
            model = DomainModel.build(self.recipe.pretrain, self.backbone, self.conditioning)
        model.load_state_dict(weights)
        return model.to(self.backbone.device).requires_grad_(False)


@contextmanager
def encoders_on_device(backbone: Backbone) -> Iterator[None]:
    """Move the VAE and the CLIP image encoder to the UNet's device, and back to where they were on exit.

    Training from cached features keeps them in host memory.
    """
    previous_device = backbone.vae.device
    backbone.move_encoders(backbone.device)
    try:
        yield
    finally:
        backbone.move_encoders(previous_device)


def _draw_grid(
    model: DomainModel, samples: Sequence[Sample], recipe: Recipe, backbone: Backbone, conditioning: Conditioning
) -> Image.Image:
    """Draw validation images beside images generated without tuning, from a template and from the image's caption."""
    pipeline = E4TPipeline(
        backbone, model.encoder, conditioning, release="in training", resolution=recipe.data.resolution
    )
    rows = []
    for index, sample in enumerate(samples):
        pixels = sample.image[None]
        tokens = class_tokens(backbone, pixels)
        pipeline.load_concept(Concept(weight_deltas={}, token=EncodedToken(tokens), release="in training"))
        prompts = [conditioning.config.templates[0], conditioning.caption_prompt(sample.caption)]
        latents = pipeline.sample(prompts, recipe.sample, seeded_generators(1000 * index, len(prompts)))
        rows.append([to_images(pixels)[0], *to_images(backbone.decode(latents))])
    return labeled_grid(rows, ("validation image", "zero-shot", "from caption"))
