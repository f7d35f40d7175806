"""Train the attribute classifier on the training identities."""

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.synthetic.faces import Identity
from pipelines.tiny_base.attribute_classifier import (
    ATTRIBUTE_VALUES,
    ATTRIBUTE_WEIGHTS_NAME,
    AttributeClassifier,
    expected_attributes,
    parse_scene,
)
from pipelines.tiny_base.config import BaseConfig
from pipelines.tiny_base.dataset import CaptionedImages, random_batches
from pipelines.tiny_base.loop import train


def train_attributes(config: BaseConfig, dataset: CaptionedImages, accelerator: Accelerator) -> None:
    """Train and write ``<output>/attributes.safetensors``."""
    torch.manual_seed(config.seed)

    exists = (Path(config.output) / ATTRIBUTE_WEIGHTS_NAME).exists()
    model = AttributeClassifier.load(config.output) if exists else AttributeClassifier()

    def save(ema: nn.Module) -> None:
        assert isinstance(ema, AttributeClassifier)  # noqa: S101 - narrows the type for mypy
        ema.save(Path(config.output))

    batches = _labeled_batches(dataset, config.attributes.batch_size, config.seed + accelerator.process_index)
    train("attributes", model, batches, _losses, save, config.attributes, Path(config.output), accelerator)


def attribute_labels(dataset: CaptionedImages) -> dict[str, Tensor]:
    """Return, per attribute, indices (N,) into ``ATTRIBUTE_VALUES``."""
    attributes = [
        expected_attributes(Identity.parse(name), parse_scene(captions[0]))
        for name, captions in zip(dataset.identities, dataset.captions, strict=True)
    ]
    return {
        name: torch.tensor([words.index(row[name]) for row in attributes]) for name, words in ATTRIBUTE_VALUES.items()
    }


def _labeled_batches(
    dataset: CaptionedImages, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    targets = attribute_labels(dataset)
    for indices, _ in random_batches(dataset, batch_size, seed):
        yield dataset.images(indices), {name: values[indices] for name, values in targets.items()}


def _losses(model: nn.Module, batch: tuple[Tensor, dict[str, Tensor]]) -> dict[str, Tensor]:
    pixels, targets = batch
    logits = model(pixels)
    losses = {name: F.cross_entropy(logits[name], targets[name]) for name in targets}
    return {"loss": torch.stack(list(losses.values())).sum()} | losses
