"""Load the images and captions of one split into memory."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_prep.config import SplitFractions
from data_prep.prepare.splits import split_of
from e4t_errors import ConfigError


@dataclass(frozen=True)
class CaptionedImages:
    """Images of one split with their captions and identities."""

    pixels: Tensor
    """Images, (N, 3, H, W), uint8."""
    captions: list[list[str]]
    """Four captions per image: scene; complete; person only; partial."""
    identities: list[str]
    """Identity (name of the concept's folder) per image."""

    def __len__(self) -> int:
        return len(self.captions)

    def images(self, indices: Tensor) -> Tensor:
        """Return images (B, 3, H, W) as float in [-1, 1]."""
        return self.pixels[indices].float() / 127.5 - 1

    def __getitem__(self, mask: Tensor) -> "CaptionedImages":
        """Select images by a boolean mask (N,)."""
        rows = mask.nonzero().flatten().tolist()
        captions, identities = [self.captions[row] for row in rows], [self.identities[row] for row in rows]
        return CaptionedImages(self.pixels[mask], captions, identities)

    def shard(self, rank: int, world_size: int) -> "CaptionedImages":
        """Return every ``world_size``-th image, starting at ``rank``."""
        return CaptionedImages(
            self.pixels[rank::world_size], self.captions[rank::world_size], self.identities[rank::world_size]
        )


def load_split(folder: Path, split: str) -> CaptionedImages:
    """Load the images of all concepts of a split. Raises ConfigError if there are none."""
    paths = [
        path
        for concept in (sorted(folder.iterdir()) if folder.exists() else [])
        if concept.is_dir() and split_of(concept.name, SplitFractions()) == split
        for path in sorted(concept.glob("*.png"))
    ]
    if not paths:
        raise ConfigError(
            f"{folder} holds no {split} concepts; run `e4t demo faces --output {folder}` or `e4t demo emoji` first"
        )
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    captions = [
        [
            path.with_suffix(".txt").read_text().strip(),
            *path.with_suffix(".captions.txt").read_text().strip().split("\n"),
        ]
        for path in paths
    ]
    return CaptionedImages(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), captions, [path.parent.name for path in paths]
    )


def random_batches(dataset: CaptionedImages, batch_size: int, seed: int) -> Iterator[tuple[Tensor, random.Random]]:
    """Yield batches of indices forever, each image once per epoch, with the generator for captions and crops."""
    rng = random.Random(seed)
    order: list[int] = []
    while True:
        while len(order) < batch_size:
            epoch = list(range(len(dataset)))
            rng.shuffle(epoch)
            order += epoch
        yield torch.tensor(order[:batch_size]), rng
        order = order[batch_size:]
