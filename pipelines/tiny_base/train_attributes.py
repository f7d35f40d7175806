"""Training of the attribute reader on the train identities."""

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.synthetic.faces import Identity
from pipelines.tiny_base.attribute_classifier import FILE, WORDS, AttributeReader, scene_of, truth
from pipelines.tiny_base.config import BaseConfig
from pipelines.tiny_base.dataset import Pictures, random_batches
from pipelines.tiny_base.loop import train


def train_attributes(config: BaseConfig, pictures: Pictures, accelerator: Accelerator) -> None:
    """Train and write ``<output>/attributes.safetensors``."""
    torch.manual_seed(config.seed)

    known = (Path(config.output) / FILE).exists()
    model = AttributeReader.load(config.output) if known else AttributeReader()

    def save(ema: nn.Module) -> None:
        assert isinstance(ema, AttributeReader)  # noqa: S101 - narrows the type for mypy
        ema.save(Path(config.output))

    batches = _labelled(pictures, config.attributes.batch_size, config.seed + accelerator.process_index)
    train("attributes", model, batches, _losses, save, config.attributes, Path(config.output), accelerator)


def labels(pictures: Pictures) -> dict[str, Tensor]:
    """(N,) indices into ``WORDS`` by attribute."""
    known = [
        truth(Identity.parse(name), scene_of(captions[0]))
        for name, captions in zip(pictures.identities, pictures.captions, strict=True)
    ]
    return {name: torch.tensor([words.index(row[name]) for row in known]) for name, words in WORDS.items()}


def _labelled(pictures: Pictures, batch_size: int, seed: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    wanted = labels(pictures)
    for indices, _ in random_batches(pictures, batch_size, seed):
        yield pictures.images(indices), {name: values[indices] for name, values in wanted.items()}


def _losses(model: nn.Module, batch: tuple[Tensor, dict[str, Tensor]]) -> dict[str, Tensor]:
    pixels, wanted = batch
    logits = model(pixels)
    losses = {name: F.cross_entropy(logits[name], wanted[name]) for name in wanted}
    return {"loss": torch.stack(list(losses.values())).sum()} | losses
