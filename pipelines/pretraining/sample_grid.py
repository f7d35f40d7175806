"""Draw the grid of sampled images that is saved during training."""

from collections.abc import Sequence

import torch
from PIL import Image

from data_prep.stream.stream import Sample
from encoder.backbone.backbone import Backbone
from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import EncodedToken
from encoder.images import to_images
from encoder.model.conditioning import Conditioning
from encoder.model.features import class_tokens
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from pipelines.config.recipe import Recipe
from pipelines.pretraining.model import DomainModel
from pipelines.runtime.image_grid import labeled_grid


@torch.no_grad()
def training_grid(
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
