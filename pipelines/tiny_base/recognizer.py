"""The domain's recogniser: a small network whose features tell drawn people apart, for evaluation.

Trained with a margin loss (CosFace, Wang et al., arXiv 1801.09414), as the ArcFace family is, on people that neither
the base, nor any pre-training or test, has seen. Stored as transformers stores any picture model.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ConvNextConfig, ConvNextImageProcessorPil, ConvNextModel

from encoder.errors import ConfigError
from encoder.metrics import ImageFeatureExtractor
from pipelines.tiny_base.config import BaseConfig
from pipelines.tiny_base.dataset import Pictures, load_split, random_batches
from pipelines.tiny_base.loop import halved, train

FOLDER = "recogniser"
SCALE, MARGIN = 30.0, 0.35
MARGIN_STEPS = 1500
"""Until the whole margin is asked for: with all of it from the start nothing is learned of so many people."""
GALLERY = 200
"""People among whom one must be found by another picture."""


class Trainee(nn.Module):
    """The network, and a direction for each person that it is trained to tell."""

    def __init__(self, network: ConvNextModel, people: int) -> None:
        super().__init__()
        self.network = network
        self.people = nn.Parameter(torch.randn(people, network.config.hidden_sizes[-1]))
        self.steps = 0

    def forward(self, pixels: Tensor) -> Tensor:
        """Cosines (B, people) of pictures (B, 3, S, S)."""
        features = self.network(pixels).pooler_output.float()
        with torch.autocast(pixels.device.type, enabled=False):  # bfloat16 would round cosines to 2 digits
            return F.normalize(features, dim=1) @ F.normalize(self.people, dim=1).T


def train_recogniser(config: BaseConfig, accelerator: Accelerator) -> None:
    """Train and write ``<output>/recogniser``. Raises ConfigError if its people are those of the base."""
    pictures = strangers(config)
    torch.manual_seed(config.seed)
    folder, names = Path(config.output) / FOLDER, sorted(set(pictures.identities))
    known = (folder / "config.json").exists()
    network = (
        ConvNextModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        if known
        else ConvNextModel(_shape(config))
    )
    size, half = config.resolution, [0.5] * 3
    ConvNextImageProcessorPil(
        size={"height": size, "width": size}, crop_pct=1.0, image_mean=half, image_std=half
    ).save_pretrained(folder)

    def save(ema: nn.Module) -> None:
        assert isinstance(ema, Trainee)  # noqa: S101 - narrows the type for mypy
        halved(ema.network).save_pretrained(folder)

    batches = _named(pictures, names, config.recogniser.batch_size, config.seed + accelerator.process_index)
    trainee = Trainee(network, len(names))
    train(FOLDER, trainee, batches, _losses, save, config.recogniser, Path(config.output), accelerator)


def strangers(config: BaseConfig) -> Pictures:
    """Train people of ``recogniser_faces`` whom the base has not seen."""
    pictures = load_split(Path(config.recogniser_faces), "train")
    seen = {folder.name for folder in Path(config.pictures).iterdir()}
    new = torch.tensor([name not in seen for name in pictures.identities])
    if not new.any():
        raise ConfigError(f"{config.recogniser_faces} holds the base's own people; draw others with another --seed")
    return pictures[new]


def _shape(config: BaseConfig) -> ConvNextConfig:
    """Blocks count from the start: ConvNeXt's own layer scale of 1e-6 is for networks of many more."""
    return ConvNextConfig(
        image_size=config.resolution,
        patch_size=4,
        num_stages=3,
        hidden_sizes=[48, 96, 192],
        depths=[1, 2, 1],
        layer_scale_init_value=1.0,
    )


def _named(pictures: Pictures, names: list[str], batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    place = {name: number for number, name in enumerate(names)}
    people = torch.tensor([place[name] for name in pictures.identities])
    for indices, _ in random_batches(pictures, batch_size, seed):
        images, mirrored = pictures.images(indices), torch.rand(batch_size, 1, 1, 1) < 0.5
        yield torch.where(mirrored, images.flip(-1), images), people[indices]


def _losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    assert isinstance(model, Trainee)  # noqa: S101 - narrows the type for mypy
    pixels, people = batch
    cosines = model(pixels)
    model.steps += 1
    margins = MARGIN * min(1.0, model.steps / MARGIN_STEPS) * F.one_hot(people, cosines.shape[1])
    loss = F.cross_entropy(SCALE * (cosines - margins), people)
    return {"loss": loss, "top1": (cosines.argmax(1) == people).float().mean()}


def recall(recogniser: ImageFeatureExtractor, pictures: Pictures) -> dict[str, float]:
    """How often, of ``GALLERY`` people with a picture each, the nearest to another picture is the same person."""
    parts = torch.arange(len(pictures)).split(256)
    features = torch.cat([recogniser.image_features(pictures.images(rows)) for rows in parts])
    first, second = _two_of_each(pictures)
    nearest = (features[second] @ features[first].T).argsort(dim=1, descending=True)
    right = (nearest == torch.arange(len(first))[:, None]).float()
    top1, top5 = (float(right[:, :count].sum(dim=1).mean()) for count in (1, 5))
    return {"people": float(len(first)), "top1": top1, "top5": top5}


def _two_of_each(pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Places of the first and second picture of up to ``GALLERY`` people."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(pictures.identities):
        places.setdefault(name, []).append(place)
    pairs = torch.tensor([both[:2] for both in places.values() if len(both) > 1][:GALLERY])
    return pairs[:, 0], pairs[:, 1]
