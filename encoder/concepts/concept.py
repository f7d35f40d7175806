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

from encoder.concepts.concept_tokens import ConceptToken, EncodedToken, LearnedToken, RareToken
from encoder.concepts.weight_deltas import WeightDeltas, from_tensors, to_dense, to_tensors
from encoder.errors import ModelError
from encoder.legacy_keys import rename_legacy_tensors

FORMAT_VERSION = 3
_WEIGHTS_NAME, _CONFIG_NAME = "concept.safetensors", "concept.json"
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError)
"""What reading files of somebody else's can raise."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A tuned concept. Changes are of few bits, and what was tuned is used as it is saved: both generate the same."""

    weight_deltas: dict[str, WeightDeltas]
    """By part: ``unet``, ``encoder`` (the domain encoder), ``text_encoder``, ``text_encoder_2``."""
    token: ConceptToken
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
        tmp_dir = folder.with_name(f".{folder.name}.partial")
        tmp_dir.mkdir(parents=True, exist_ok=True)
        tensors, config = self._serialize()
        save_file(tensors, tmp_dir / _WEIGHTS_NAME)
        (tmp_dir / _CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
        return tmp_dir.rename(folder)

    @classmethod
    def load(cls, path: Path | str) -> "Concept":
        """Read a concept's folder, or its file of ``to_bytes``. Raises ModelError if broken or of a newer format."""
        path = Path(path)
        try:
            if path.is_file():
                return cls.from_bytes(path.read_bytes())
            config = json.loads((path / _CONFIG_NAME).read_text())
            return cls._deserialize(load_file(path / _WEIGHTS_NAME), config)
        except _READ_ERRORS as error:
            raise ModelError(f"{path} is not a whole concept ({error}); make one with `e4t tune`") from error

    def to_bytes(self) -> bytes:
        """The same as one safetensors file, concept.json in its head: what is sent and downloaded."""
        tensors, config = self._serialize()
        data: bytes = save(tensors, {_CONFIG_NAME: json.dumps(config)})
        return data

    @property
    def digest(self) -> str:
        """Sha256 of everything that it is."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Concept":
        """Read what ``to_bytes`` gave. Raises ModelError if it is broken or of a newer format."""
        try:
            return cls._deserialize(load(data), json.loads(_metadata(data)[_CONFIG_NAME]))
        except _READ_ERRORS as error:
            raise ModelError(f"this is no whole concept ({error}); make one with `e4t tune`") from error

    def _serialize(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and everything else."""
        deltas = {
            f"{part}/{name}": change for part in self.weight_deltas for name, change in self.weight_deltas[part].items()
        }
        token_fields = self.token._asdict()
        tensors = {name: value.contiguous() for name, value in token_fields.items() if isinstance(value, Tensor)}
        delta_tensors = [to_tensors(key, change) for key, change in deltas.items()]
        token_config = {name: value for name, value in token_fields.items() if name not in tensors}
        config = {
            "format_version": FORMAT_VERSION,
            "release": self.release,
            "word": token_config,
            "settings": self.settings,
        }
        return {key: tensor for some in (tensors, *delta_tensors) for key, tensor in some.items()}, config

    @classmethod
    def _deserialize(cls, tensors: dict[str, Tensor], config: dict[str, Any]) -> "Concept":
        """The inverse of ``_plain``."""
        if config["format_version"] > FORMAT_VERSION:
            raise ModelError(
                f"a concept of format {config['format_version']}; this e4t reads up to {FORMAT_VERSION}: upgrade e4t"
            )
        token = _parse_token(config.get("word", {}), tensors)
        weight_deltas: dict[str, WeightDeltas] = {}
        for key, delta in from_tensors(rename_legacy_tensors(tensors)).items():
            part, _, name = key.partition("/")
            weight_deltas.setdefault(part, {})[name] = delta
        return cls(weight_deltas=weight_deltas, token=token, release=config["release"], settings=config["settings"])


def _metadata(data: bytes) -> dict[str, str]:
    """Of a safetensors file: its head is the length of a JSON object, in 8 bytes, and the object."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata


def _parse_token(token_config: dict[str, Any], tensors: dict[str, Tensor]) -> ConceptToken:
    """The word of a concept that was read; its tensor is taken out."""
    if "text" in token_config:
        return RareToken(token_config["text"])
    if "embedding" in tensors:
        return LearnedToken(tensors.pop("embedding"), tuple(token_config["widths"]))
    return EncodedToken(tensors.pop("class_tokens"))


class AppliedConcept:
    """A concept in a model: the former weights are kept, so that unloading leaves the base bit-identical."""

    def __init__(self, concept: Concept, modules: dict[str, nn.Module]) -> None:
        """Load into the modules of the concept's parts."""
        self.concept, self._modules = concept, modules
        self._original_values = {
            part: apply_deltas(modules[part], changes) for part, changes in concept.weight_deltas.items()
        }

    def unload(self) -> None:
        """Put the former weights back."""
        for part, original_values in self._original_values.items():
            restore(self._modules[part], original_values)


@torch.no_grad()
def apply_deltas(module: nn.Module, deltas: WeightDeltas) -> dict[str, Tensor]:
    """Add changes to parameters; returns the former values, for ``restore``."""
    parameters = dict(module.named_parameters())
    if unknown := deltas.keys() - parameters.keys():
        raise ModelError(
            f"the concept has a parameter that this model lacks, {sorted(unknown)[0]}; it was tuned on another release"
        )
    original_values = {name: parameters[name].detach().clone() for name in deltas}
    for name, delta in deltas.items():
        original = original_values[name]
        parameters[name].copy_(original.float() + to_dense(delta, original.shape).to(original.device))
    return original_values


@torch.no_grad()
def restore(module: nn.Module, original_values: dict[str, Tensor]) -> None:
    """Put former values back, bit for bit."""
    parameters = dict(module.named_parameters())
    for name, value in original_values.items():
        parameters[name].copy_(value)
