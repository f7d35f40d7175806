"""Classify the attributes of drawn faces, so that evaluation can tell which person and scene an image shows."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_prep.errors import DataError
from data_prep.synthetic.faces import Identity, Scene
from data_prep.synthetic.vocabulary import ACCESSORIES, BACKGROUNDS, BEARDS, CLOTHES, EXPRESSIONS, HAIR, HEADS, SKINS
from encoder.errors import ModelError

IDENTITY_ATTRIBUTES: dict[str, Collection[str]] = {
    "head": HEADS,
    "hair": HAIR,
    "skin": SKINS,
    "beard": BEARDS,
    "accessory": ACCESSORIES,
}
SCENE_ATTRIBUTES: dict[str, Collection[str]] = {
    "expression": EXPRESSIONS,
    "clothes": CLOTHES,
    "background": BACKGROUNDS,
}
ATTRIBUTE_VALUES: dict[str, list[str]] = {
    name: list(words) for name, words in (IDENTITY_ATTRIBUTES | SCENE_ATTRIBUTES).items()
}
ATTRIBUTE_WEIGHTS_NAME = "attributes.safetensors"


class AttributeClassifier(nn.Module):
    """A small convolutional classifier with one head per attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *self._block(3, 32), *self._block(32, 64), *self._block(64, 128), *self._block(128, 128), nn.Flatten()
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(128 * 4 * 4, len(words)) for name, words in ATTRIBUTE_VALUES.items()}
        )

    @staticmethod
    def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return logits (B, number of values) per attribute for images (B, 3, 64, 64) in [-1, 1]."""
        features = self.trunk(pixels)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> list[dict[str, str]]:
        """Return the most likely value of every attribute, for each image."""
        best_indices = {name: logits.argmax(dim=1).tolist() for name, logits in self(pixels).items()}
        return [
            {name: ATTRIBUTE_VALUES[name][best_indices[name][row]] for name in ATTRIBUTE_VALUES}
            for row in range(len(pixels))
        ]

    def save(self, folder: Path) -> None:
        """Save fp16 weights to the folder of the base model."""
        save_file(
            {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()},
            folder / ATTRIBUTE_WEIGHTS_NAME,
        )

    @classmethod
    def load(cls, folder: Path | str) -> "AttributeClassifier":
        """Load the weights from the folder of a base model.

        Raises:
            ModelError: The folder has no classifier (only drawn faces have known attributes) or it cannot be read.
        """
        path = Path(folder) / ATTRIBUTE_WEIGHTS_NAME
        if not path.exists():
            raise ModelError(
                f"{path} is missing; attribute scores exist only for drawn faces with the base model models/base"
            )
        classifier = cls()
        try:
            classifier.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"{path} cannot be loaded ({str(error).splitlines()[0]}); download the base model again"
            ) from error
        return classifier.eval()


def parse_scene(caption: str) -> Scene:
    """Parse a caption written by ``Scene.caption``. Raises DataError for any other caption."""
    words = caption.split()
    values = dict(zip(SCENE_ATTRIBUTES, words[4:13:4], strict=False))
    if len(words) != 14 or any(values[name] not in known for name, known in SCENE_ATTRIBUTES.items()):
        raise DataError(f"{caption!r} is not a caption of a drawn face (expression, clothes and background)")
    return Scene(expression=values["expression"], clothes=values["clothes"], background=values["background"])


def expected_attributes(identity: Identity, scene: Scene) -> dict[str, str]:
    """Return the attributes that an image of this person in this scene must show."""
    return {name: getattr(identity, name) for name in IDENTITY_ATTRIBUTES} | {
        name: getattr(scene, name) for name in SCENE_ATTRIBUTES
    }


def matching_fraction(predicted: dict[str, str], expected: dict[str, str], names: Sequence[str]) -> float:
    """Return the fraction of the named attributes that are predicted correctly."""
    return sum(predicted[name] == expected[name] for name in names) / len(names)
