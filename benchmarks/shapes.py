"""Options that choose the base model whose shapes a benchmark uses; weights are random."""

import argparse
from pathlib import Path

from encoder.backbone.shapes import DUMMY_TOKEN
from encoder.config import PLACEHOLDER, ConditioningConfig

SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PROMPT = f"{DUMMY_TOKEN} {PLACEHOLDER}"
CONDITIONING = ConditioningConfig(domain_word=DUMMY_TOKEN, templates=(PROMPT,))


def add_shape_arguments(parser: argparse.ArgumentParser, resolution: int) -> None:
    """Add ``--base``, ``--hidden-width`` and ``--resolution``."""
    parser.add_argument("--base", default=SD1, help="hub id of a published base model, or a folder")
    parser.add_argument("--hidden-width", type=int, default=None, help="hidden width of the domain encoder")
    parser.add_argument("--resolution", type=int, default=resolution, help="side of the images in pixels")


def image_encoder_for(base: str) -> str | None:
    """Return the CLIP image encoder to use with a base model: None (its own) for a folder, else ViT-H/14."""
    return None if Path(base).exists() else VIT_H
