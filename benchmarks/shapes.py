"""Whose shapes a benchmark takes: a published base's, or those of a folder."""

import argparse
from pathlib import Path

from encoder.backbone.shapes import DUMMY_TOKEN
from encoder.config import PLACEHOLDER, ConditioningConfig

SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PROMPT = f"{DUMMY_TOKEN} {PLACEHOLDER}"
CONDITIONING = ConditioningConfig(domain_word=DUMMY_TOKEN, templates=(PROMPT,))


def add_shapes(parser: argparse.ArgumentParser, side: int) -> None:
    """``--base``, ``--hidden-width`` and ``--side``."""
    parser.add_argument("--base", default=SD1, help="whose shapes; with ViT-H/14 unless it is a folder with a tower")
    parser.add_argument("--hidden-width", type=int, default=None, help="of the domain encoder")
    parser.add_argument("--side", type=int, default=side, help="of the pictures, in pixels")


def tower_of(base: str) -> str | None:
    """The picture tower: a folder's own, or ViT-H/14."""
    return None if Path(base).exists() else VIT_H
