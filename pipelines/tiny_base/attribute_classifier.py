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

IDENTITY: dict[str, Collection[str]] = {
    "head": HEADS,
    "hair": HAIR,
    "skin": SKINS,
    "beard": BEARDS,
    "accessory": ACCESSORIES,
}
SCENE: dict[str, Collection[str]] = {"expression": EXPRESSIONS, "clothes": CLOTHES, "background": BACKGROUNDS}
WORDS: dict[str, list[str]] = {name: list(words) for name, words in (IDENTITY | SCENE).items()}
FILE = "attributes.safetensors"


class AttributeReader(nn.Module):
    """A small convolutional classifier with a head an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *self._block(3, 32), *self._block(32, 64), *self._block(64, 128), *self._block(128, 128), nn.Flatten()
        )
        self.heads = nn.ModuleDict({name: nn.Linear(128 * 4 * 4, len(words)) for name, words in WORDS.items()})

    @staticmethod
    def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits (B, words) by attribute, of pictures (B, 3, 64, 64) in [-1, 1]."""
        features = self.trunk(pixels)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pixels: Tensor) -> list[dict[str, str]]:
        """The likeliest word of every attribute, for each picture."""
        best = {name: logits.argmax(dim=1).tolist() for name, logits in self(pixels).items()}
        return [{name: WORDS[name][best[name][row]] for name in WORDS} for row in range(len(pixels))]

    def save(self, folder: Path) -> None:
        """Write fp16 weights into the base's folder."""
        save_file({name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path | str) -> "AttributeReader":
        """Read the weights. Raises ModelError if the base has none: only the built-in domain has known attributes."""
        path = Path(folder) / FILE
        if not path.exists():
            raise ModelError(
                f"{path} is missing; `e4t evaluate` is for the drawn faces, on the base that ships with e4t"
            )
        reader = cls()
        try:
            reader.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"{path} cannot be loaded ({str(error).splitlines()[0]}); get the base again") from error
        return reader.eval()


def scene_of(caption: str) -> Scene:
    """The scene that ``Scene.caption`` has put into words. Raises DataError for any other caption."""
    words = caption.split()
    said = dict(zip(SCENE, words[4:13:4], strict=False))
    if len(words) != 14 or any(said[name] not in known for name, known in SCENE.items()):
        raise DataError(f"{caption!r} does not say expression, clothes and background as drawn faces' captions do")
    return Scene(expression=said["expression"], clothes=said["clothes"], background=said["background"])


def truth(identity: Identity, scene: Scene) -> dict[str, str]:
    """What a picture of this person in this scene shows."""
    return {name: getattr(identity, name) for name in IDENTITY} | {name: getattr(scene, name) for name in SCENE}


def agreement(read: dict[str, str], wanted: dict[str, str], names: Sequence[str]) -> float:
    """Share of the named attributes that are as wanted."""
    return sum(read[name] == wanted[name] for name in names) / len(names)
