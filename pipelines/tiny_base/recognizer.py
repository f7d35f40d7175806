"""Train the recognizer of drawn people, whose features measure identity similarity in evaluations.

It is a small ConvNeXt trained with a margin loss (CosFace, Wang et al., arXiv 1801.09414) on identities that neither
the base model nor any pre-training or test uses, and is saved in the format of transformers.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ConvNextConfig, ConvNextImageProcessorPil, ConvNextModel

from e4t_errors import ConfigError
from encoder.metrics import ImageFeatureExtractor
from pipelines.tiny_base.config import BaseConfig
from pipelines.tiny_base.dataset import CaptionedImages, load_split, random_batches
from pipelines.tiny_base.loop import to_fp16, train

RECOGNIZER_DIR = "recogniser"
"""Folder inside the base model. The spelling is part of released base models and of recipes."""
SCALE, MARGIN = 30.0, 0.35
"""CosFace scale of the logits and margin on the cosine."""
MARGIN_WARMUP_STEPS = 1500
"""Steps over which the margin grows to ``MARGIN``; with the full margin from the start, training does not converge."""
GALLERY_SIZE = 200
"""Number of people among whom a person must be found by another image."""


class CosFaceModel(nn.Module):
    """The network with one learned class direction per training identity."""

    def __init__(self, network: ConvNextModel, num_identities: int) -> None:
        super().__init__()
        self.network = network
        self.class_weights = nn.Parameter(torch.randn(num_identities, network.config.hidden_sizes[-1]))
        self.steps = 0

    def forward(self, pixels: Tensor) -> Tensor:
        """Return cosines (B, number of identities) of images (B, 3, S, S) with the class directions."""
        features = self.network(pixels).pooler_output.float()
        with torch.autocast(pixels.device.type, enabled=False):  # bfloat16 would round cosines to about two digits
            return F.normalize(features, dim=1) @ F.normalize(self.class_weights, dim=1).T


def train_recognizer(config: BaseConfig, accelerator: Accelerator) -> None:
    """Train and save the recognizer to ``<output>/recogniser``. Raises ConfigError without held-out identities."""
    dataset = held_out_identities(config)
    torch.manual_seed(config.seed)
    folder, identities = Path(config.output) / RECOGNIZER_DIR, sorted(set(dataset.identities))
    exists = (folder / "config.json").exists()
    network = (
        ConvNextModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        if exists
        else ConvNextModel(_network_config(config))
    )
    size, half = config.resolution, [0.5] * 3
    ConvNextImageProcessorPil(
        size={"height": size, "width": size}, crop_pct=1.0, image_mean=half, image_std=half
    ).save_pretrained(folder)

    def save(ema: nn.Module) -> None:
        assert isinstance(ema, CosFaceModel)  # noqa: S101 - narrows the type for mypy
        to_fp16(ema.network).save_pretrained(folder)

    batches = _labeled_batches(
        dataset, identities, config.recognizer.batch_size, config.seed + accelerator.process_index
    )
    model = CosFaceModel(network, len(identities))
    train(RECOGNIZER_DIR, model, batches, _losses, save, config.recognizer, Path(config.output), accelerator)


def held_out_identities(config: BaseConfig) -> CaptionedImages:
    """Load the training identities of ``recognizer_faces`` that the base model was not trained on."""
    dataset = load_split(Path(config.recognizer_faces), "train")
    seen = {folder.name for folder in Path(config.image_dir).iterdir()}
    is_new = torch.tensor([name not in seen for name in dataset.identities])
    if not is_new.any():
        raise ConfigError(
            f"{config.recognizer_faces} holds only identities of the base model; create others with "
            "`e4t demo faces --seed`"
        )
    return dataset[is_new]


def _network_config(config: BaseConfig) -> ConvNextConfig:
    """Build the configuration. Layer scale starts at 1, because the default of 1e-6 is meant for deep networks."""
    return ConvNextConfig(
        image_size=config.resolution,
        patch_size=4,
        num_stages=3,
        hidden_sizes=[48, 96, 192],
        depths=[1, 2, 1],
        layer_scale_init_value=1.0,
    )


def _labeled_batches(
    dataset: CaptionedImages, identities: list[str], batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    index_by_identity = {name: number for number, name in enumerate(identities)}
    labels = torch.tensor([index_by_identity[name] for name in dataset.identities])
    for indices, _ in random_batches(dataset, batch_size, seed):
        images, flip_mask = dataset.images(indices), torch.rand(batch_size, 1, 1, 1) < 0.5
        yield torch.where(flip_mask, images.flip(-1), images), labels[indices]


def _losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    assert isinstance(model, CosFaceModel)  # noqa: S101 - narrows the type for mypy
    pixels, labels = batch
    cosines = model(pixels)
    model.steps += 1
    margins = MARGIN * min(1.0, model.steps / MARGIN_WARMUP_STEPS) * F.one_hot(labels, cosines.shape[1])
    loss = F.cross_entropy(SCALE * (cosines - margins), labels)
    return {"loss": loss, "top1": (cosines.argmax(1) == labels).float().mean()}


def recall(recognizer: ImageFeatureExtractor, dataset: CaptionedImages) -> dict[str, float]:
    """Return how often the nearest of ``GALLERY_SIZE`` people to another image (top 1, top 5) is the same person."""
    parts = torch.arange(len(dataset)).split(256)
    features = torch.cat([recognizer.image_features(dataset.images(rows)) for rows in parts])
    gallery, queries = _two_per_identity(dataset)
    nearest = (features[queries] @ features[gallery].T).argsort(dim=1, descending=True)
    correct = (nearest == torch.arange(len(gallery))[:, None]).float()
    top1, top5 = (float(correct[:, :count].sum(dim=1).mean()) for count in (1, 5))
    return {"num_identities": float(len(gallery)), "top1": top1, "top5": top5}


def _two_per_identity(dataset: CaptionedImages) -> tuple[Tensor, Tensor]:
    """Return the indices of the first and second image of up to ``GALLERY_SIZE`` people."""
    indices_by_identity: dict[str, list[int]] = {}
    for index, name in enumerate(dataset.identities):
        indices_by_identity.setdefault(name, []).append(index)
    pairs = torch.tensor([indices[:2] for indices in indices_by_identity.values() if len(indices) > 1][:GALLERY_SIZE])
    return pairs[:, 0], pairs[:, 1]
