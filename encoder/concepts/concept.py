"""A concept: what tuning leaves, as a difference from the release it was tuned on."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor, nn

from encoder.concepts.concept_tokens import Identifier, LearnedWord, PictureWord, Word
from encoder.concepts.weight_deltas import Changes, dense, from_tensors, to_tensors
from encoder.errors import ModelError

FORMAT_VERSION = 3
_WEIGHTS, _CONFIG = "concept.safetensors", "concept.json"
_BROKEN = (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError)
"""What reading files of somebody else's can raise."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A tuned concept. Changes are of few bits, and what was tuned is used as it is saved: both generate the same."""

    changes: dict[str, Changes]
    """By part: ``unet``, ``encoder`` (the domain encoder), ``text_encoder``, ``text_encoder_2``."""
    word: Word
    """What stands for it in prompts."""
    release: str
    """Identity of what it was tuned on: the release's name and version."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How it was tuned, for people to read."""

    def save(self, folder: Path | str) -> Path:
        """Write concept.safetensors and concept.json; the folder appears by rename, when whole."""
        folder = Path(folder)
        if folder.exists():
            raise ModelError(f"{folder} exists; give another output or delete it")
        aside = folder.with_name(f".{folder.name}.partial")
        aside.mkdir(parents=True, exist_ok=True)
        tensors, config = self._plain()
        save_file(tensors, aside / _WEIGHTS)
        (aside / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        return aside.rename(folder)

    @classmethod
    def load(cls, path: Path | str) -> "Concept":
        """Read a concept's folder, or its file of ``to_bytes``. Raises ModelError if broken or of a newer format."""
        path = Path(path)
        try:
            if path.is_file():
                return cls.from_bytes(path.read_bytes())
            config = json.loads((path / _CONFIG).read_text())
            return cls._of(load_file(path / _WEIGHTS), config)
        except _BROKEN as error:
            raise ModelError(f"{path} is not a whole concept ({error}); make one with `e4t tune`") from error

    def to_bytes(self) -> bytes:
        """The same as one safetensors file, concept.json in its head: what is sent and downloaded."""
        tensors, config = self._plain()
        held: bytes = save(tensors, {_CONFIG: json.dumps(config)})
        return held

    @property
    def digest(self) -> str:
        """Sha256 of everything that it is."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Concept":
        """Read what ``to_bytes`` gave. Raises ModelError if it is broken or of a newer format."""
        try:
            return cls._of(load(data), json.loads(_metadata(data)[_CONFIG]))
        except _BROKEN as error:
            raise ModelError(f"this is no whole concept ({error}); make one with `e4t tune`") from error

    def _plain(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and everything else."""
        changes = {f"{part}/{name}": change for part in self.changes for name, change in self.changes[part].items()}
        word = self.word._asdict()
        tensors = {name: value.contiguous() for name, value in word.items() if isinstance(value, Tensor)}
        held = [to_tensors(key, change) for key, change in changes.items()]
        said = {name: value for name, value in word.items() if name not in tensors}
        config = {"format_version": FORMAT_VERSION, "release": self.release, "word": said, "settings": self.settings}
        return {key: tensor for some in (tensors, *held) for key, tensor in some.items()}, config

    @classmethod
    def _of(cls, tensors: dict[str, Tensor], config: dict[str, Any]) -> "Concept":
        """The inverse of ``_plain``."""
        if config["format_version"] > FORMAT_VERSION:
            raise ModelError(
                f"a concept of format {config['format_version']}; this e4t reads up to {FORMAT_VERSION}: upgrade e4t"
            )
        word = _word(config.get("word", {}), tensors)
        changes: dict[str, Changes] = {}
        for key, change in from_tensors(tensors).items():
            part, _, name = key.partition("/")
            changes.setdefault(part, {})[name] = change
        return cls(changes=changes, word=word, release=config["release"], settings=config["settings"])


def _metadata(data: bytes) -> dict[str, str]:
    """Of a safetensors file: its head is the length of a JSON object, in 8 bytes, and the object."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found


def _word(said: dict[str, Any], tensors: dict[str, Tensor]) -> Word:
    """The word of a concept that was read; its tensor is taken out."""
    if "text" in said:
        return Identifier(said["text"])
    if "embedding" in tensors:
        return LearnedWord(tensors.pop("embedding"), tuple(said["widths"]))
    return PictureWord(tensors.pop("class_tokens"))


class LoadedConcept:
    """A concept in a model: the former weights are kept, so that unloading leaves the base bit-identical."""

    def __init__(self, concept: Concept, parts: dict[str, nn.Module]) -> None:
        """Load into the modules of the concept's parts."""
        self.concept, self._parts = concept, parts
        self._before = {part: add_changes(parts[part], changes) for part, changes in concept.changes.items()}

    def unload(self) -> None:
        """Put the former weights back."""
        for part, before in self._before.items():
            restore(self._parts[part], before)


@torch.no_grad()
def add_changes(module: nn.Module, changes: Changes) -> dict[str, Tensor]:
    """Add changes to parameters; returns the former values, for ``restore``."""
    parameters = dict(module.named_parameters())
    if unknown := changes.keys() - parameters.keys():
        raise ModelError(
            f"the concept has a parameter that this model lacks, {sorted(unknown)[0]}; it was tuned on another release"
        )
    before = {name: parameters[name].detach().clone() for name in changes}
    for name, change in changes.items():
        former = before[name]
        parameters[name].copy_(former.float() + dense(change, former.shape).to(former.device))
    return before


@torch.no_grad()
def restore(module: nn.Module, before: dict[str, Tensor]) -> None:
    """Put former values back, bit for bit."""
    parameters = dict(module.named_parameters())
    for name, value in before.items():
        parameters[name].copy_(value)
