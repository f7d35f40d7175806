"""The result of tuning: a concept token and the difference to the weights of the release."""

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
from encoder.concepts.weight_deltas import WeightDeltas, from_tensors, has_shape, to_dense, to_tensors
from encoder.errors import ModelError
from encoder.finite import check_finite
from encoder.legacy_keys import rename_legacy_tensors

FORMAT_VERSION = 4
"""Version 4 renamed keys of concept.json and tensors of the domain encoder; older versions are still read."""
_VERSION_3_TOKEN_KEY = "word"
_WEIGHTS_NAME, _CONFIG_NAME = "concept.safetensors", "concept.json"
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError)
"""Errors that reading an untrusted or damaged file can raise."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A tuned concept: what ``*s`` stands for in prompts, and weight deltas.

    Raises ModelError if a value is not finite, so that no such concept is saved, loaded or used.

    Deltas are rounded to ``tune.delta_bits`` before first use, so that a concept generates the same images before and
    after it was saved.
    """

    weight_deltas: dict[str, WeightDeltas]
    """Weight deltas by module: ``unet``, ``encoder`` (the domain encoder), ``text_encoder``, ``text_encoder_2``."""
    token: ConceptToken
    """Token that replaces ``*s`` in prompts."""
    release: str
    """Name and version of the release that it was tuned on (``Release.id``)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the tuning and its rounding error, for information only."""

    def __post_init__(self) -> None:
        check_finite(
            self._serialize()[0],
            f"concept of {self.release}",
            "tuning has diverged, or the file is damaged: tune again with a lower --learning-rate",
        )

    def save(self, folder: Path | str) -> Path:
        """Write concept.safetensors and concept.json to a new folder, which appears by rename once it is complete."""
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
        """Read a concept from its folder or from a file that holds the bytes of ``to_bytes``.

        Raises ModelError if it is missing, damaged, or of a newer format.
        """
        path = Path(path)
        try:
            if path.is_file():
                return cls.from_bytes(path.read_bytes())
            config = json.loads((path / _CONFIG_NAME).read_text())
            return cls._deserialize(load_file(path / _WEIGHTS_NAME), config)
        except _READ_ERRORS as error:
            raise ModelError(f"{path} is not a complete concept ({error}); make one with `e4t tune`") from error

    def to_bytes(self) -> bytes:
        """Serialize to a single safetensors file with concept.json in its metadata."""
        tensors, config = self._serialize()
        data: bytes = save(tensors, {_CONFIG_NAME: json.dumps(config)})
        return data

    @property
    def digest(self) -> str:
        """Sha256 of ``to_bytes``."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Concept":
        """Read the bytes of ``to_bytes``. Raises ModelError if they are damaged or of a newer format."""
        try:
            return cls._deserialize(load(data), json.loads(_metadata(data)[_CONFIG_NAME]))
        except _READ_ERRORS as error:
            raise ModelError(f"these bytes are not a complete concept ({error}); make one with `e4t tune`") from error

    def _serialize(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors of concept.safetensors and the contents of concept.json."""
        deltas = {
            f"{part}/{name}": delta for part in self.weight_deltas for name, delta in self.weight_deltas[part].items()
        }
        token_fields = self.token._asdict()
        tensors = {name: value.contiguous() for name, value in token_fields.items() if isinstance(value, Tensor)}
        delta_tensors = [to_tensors(key, delta) for key, delta in deltas.items()]
        token_config = {name: value for name, value in token_fields.items() if name not in tensors}
        config = {
            "format_version": FORMAT_VERSION,
            "release": self.release,
            "token": token_config,
            "settings": self.settings,
        }
        return {key: tensor for named in (tensors, *delta_tensors) for key, tensor in named.items()}, config

    @classmethod
    def _deserialize(cls, tensors: dict[str, Tensor], config: dict[str, Any]) -> "Concept":
        """Create a concept from what ``_serialize`` returned, or an earlier version of it."""
        if config["format_version"] > FORMAT_VERSION:
            raise ModelError(
                f"a concept of format {config['format_version']}; this e4t reads up to {FORMAT_VERSION}: upgrade e4t"
            )
        token = _parse_token(config.get("token", config.get(_VERSION_3_TOKEN_KEY, {})), tensors)
        weight_deltas: dict[str, WeightDeltas] = {}
        for key, delta in from_tensors(rename_legacy_tensors(tensors)).items():
            part, _, name = key.partition("/")
            weight_deltas.setdefault(part, {})[name] = delta
        return cls(weight_deltas=weight_deltas, token=token, release=config["release"], settings=config["settings"])


def _metadata(data: bytes) -> dict[str, str]:
    """Read the metadata of a safetensors file, which begins with an 8-byte length and a JSON object."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata


def _parse_token(token_config: dict[str, Any], tensors: dict[str, Tensor]) -> ConceptToken:
    """Create the token of a concept that is being read, and remove its tensor from ``tensors``."""
    if "text" in token_config:
        return RareToken(token_config["text"])
    if "embedding" in tensors:
        return LearnedToken(tensors.pop("embedding"), tuple(token_config["widths"]))
    return EncodedToken(tensors.pop("class_tokens"))


class AppliedConcept:
    """A concept whose deltas are added to the model's weights. It keeps the original weights for ``unload``."""

    def __init__(self, concept: Concept, modules: dict[str, nn.Module]) -> None:
        """Add the deltas of ``concept`` to the modules of the same names.

        Raises ModelError, before any weight changes, if the concept does not fit them.
        """
        check_fits(concept, modules)
        self.concept, self._modules = concept, modules
        self._original_values = {
            part: apply_deltas(modules[part], deltas) for part, deltas in concept.weight_deltas.items()
        }

    def unload(self) -> None:
        """Restore the original weights, bit for bit."""
        for part, original_values in self._original_values.items():
            restore(self._modules[part], original_values)


def check_fits(concept: Concept, modules: dict[str, nn.Module]) -> None:
    """Check that the deltas of a concept fit the modules of the same names. Raises ModelError."""
    for part, deltas in concept.weight_deltas.items():
        if part not in modules:
            raise ModelError(f"the concept changes {part}, which this model lacks; it was tuned on another release")
        check_deltas(modules[part], deltas, part)


def check_deltas(module: nn.Module, deltas: WeightDeltas, part: str = "") -> None:
    """Check that deltas fit the parameters of a module. Raises ModelError that names the first one that does not."""
    parameters = dict(module.named_parameters())
    if unknown := deltas.keys() - parameters.keys():
        raise ModelError(
            f"the concept has a parameter that this model lacks, {sorted(unknown)[0]}; it was tuned on another release"
        )
    for name, delta in deltas.items():
        expected = parameters[name].shape
        if not has_shape(delta, expected):
            raise ModelError(
                f"the concept's change of {part}/{name} does not have this model's shape {tuple(expected)}; it was "
                "tuned on another release"
            )


@torch.no_grad()
def apply_deltas(module: nn.Module, deltas: WeightDeltas) -> dict[str, Tensor]:
    """Add weight deltas to the parameters of a module, and return the original values for ``restore``."""
    check_deltas(module, deltas)
    parameters = dict(module.named_parameters())
    original_values = {name: parameters[name].detach().clone() for name in deltas}
    for name, delta in deltas.items():
        original = original_values[name]
        parameters[name].copy_(original.float() + to_dense(delta, original.shape).to(original.device))
    return original_values


@torch.no_grad()
def restore(module: nn.Module, original_values: dict[str, Tensor]) -> None:
    """Set parameters to the values that ``apply_deltas`` returned, bit for bit."""
    parameters = dict(module.named_parameters())
    for name, value in original_values.items():
        parameters[name].copy_(value)
