"""Grids of pictures: while training, and for people at the end."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from data_prep.stream import Sample
from encoder.backbone import Backbone
from encoder.concept import Concept
from encoder.conditioning import Conditioning
from encoder.features import class_tokens
from encoder.pipeline import E4TPipeline, to_images
from encoder.words import PictureWord
from pipelines.config import Recipe
from pipelines.domain_model import DomainModel

GAP = 6


@torch.no_grad()
def training_grid(
    model: DomainModel, samples: Sequence[Sample], recipe: Recipe, backbone: Backbone, conditioning: Conditioning
) -> Image.Image:
    """Held-out pictures beside what the encoder makes of them without tuning."""
    pipeline = E4TPipeline(
        backbone, model.encoder, conditioning, release="in training", resolution=recipe.data.resolution
    )
    rows = []
    for index, sample in enumerate(samples):
        pixels = sample.image[None]
        tokens = class_tokens(backbone, pixels)
        pipeline.load_concept(Concept(changes={}, word=PictureWord(tokens), release="in training"))
        prompts = [conditioning.config.templates[0], conditioning.caption_prompt(sample.caption)]
        latents = pipeline.sample(prompts, recipe.sample, seed=1000 * index)
        rows.append([to_images(pixels)[0], *to_images(backbone.decode(latents))])
    return labelled_grid(rows, ("held out", "zero-shot", "from its caption"))


def labelled_grid(
    rows: Sequence[Sequence[Image.Image]], labels: Sequence[str], *, cell: int = 128, label_height: int = 36
) -> Image.Image:
    """Rows of pictures under labelled columns."""
    width = GAP + len(labels) * (cell + GAP)
    grid = Image.new("RGB", (width, label_height + len(rows) * (cell + GAP)), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(12)
    for column, label in enumerate(labels):
        center = GAP + column * (cell + GAP) + cell // 2
        draw.multiline_text((center, label_height // 2), label, fill="black", font=font, anchor="mm", align="center")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            place = (GAP + column * (cell + GAP), label_height + row * (cell + GAP))
            grid.paste(picture.resize((cell, cell), Image.Resampling.LANCZOS), place)
    return grid
