"""Reads a drawn face's attributes from its pixels: how evaluation knows who is shown, and in what scene."""

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
    """A small convolutional classifier with a head an attribute."""

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
        """Logits (B, words) by attribute, of pictures (B, 3, 64, 64) in [-1, 1]."""
        features = self.trunk(pixels)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> list[dict[str, str]]:
        """The likeliest word of every attribute, for each picture."""
        best_indices = {name: logits.argmax(dim=1).tolist() for name, logits in self(pixels).items()}
        return [
            {name: ATTRIBUTE_VALUES[name][best_indices[name][row]] for name in ATTRIBUTE_VALUES}
            for row in range(len(pixels))
        ]

    def save(self, folder: Path) -> None:
        """Write fp16 weights into the base's folder."""
        save_file(
            {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()},
            folder / ATTRIBUTE_WEIGHTS_NAME,
        )

    @classmethod
    def load(cls, folder: Path | str) -> "AttributeClassifier":
        """Read the weights. Raises ModelError if the base has none: only the built-in domain has known attributes."""
        path = Path(folder) / ATTRIBUTE_WEIGHTS_NAME
        if not path.exists():
            raise ModelError(
                f"{path} is missing; `e4t evaluate` is for the drawn faces, on the base that ships with e4t"
            )
        classifier = cls()
        try:
            classifier.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"{path} cannot be loaded ({str(error).splitlines()[0]}); get the base again") from error
        return classifier.eval()


def parse_scene(caption: str) -> Scene:
    """The scene that ``Scene.caption`` has put into words. Raises DataError for any other caption."""
    words = caption.split()
    values = dict(zip(SCENE_ATTRIBUTES, words[4:13:4], strict=False))
    if len(words) != 14 or any(values[name] not in known for name, known in SCENE_ATTRIBUTES.items()):
        raise DataError(f"{caption!r} does not say expression, clothes and background as drawn faces' captions do")
    return Scene(expression=values["expression"], clothes=values["clothes"], background=values["background"])


def expected_attributes(identity: Identity, scene: Scene) -> dict[str, str]:
    """What a picture of this person in this scene shows."""
    return {name: getattr(identity, name) for name in IDENTITY_ATTRIBUTES} | {
        name: getattr(scene, name) for name in SCENE_ATTRIBUTES
    }


def matching_fraction(predicted: dict[str, str], expected: dict[str, str], names: Sequence[str]) -> float:
    """Share of the named attributes that are as wanted."""
    return sum(predicted[name] == expected[name] for name in names) / len(names)
