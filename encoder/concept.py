"""A concept: what tuning leaves, as a difference from the release it was tuned on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from encoder.errors import ModelError

FORMAT_VERSION = 1
_WEIGHTS, _CONFIG = "concept.safetensors", "concept.json"


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A tuned concept. Differences are fp16, and what was tuned is used as it is saved: both generate the same."""

    unet: dict[str, Tensor]
    """Differences of UNet parameters, by name."""
    encoder: dict[str, Tensor]
    """Differences of domain encoder parameters, by name."""
    class_tokens: Tensor
    """(1, K, width) of the picture, averaged if there are several."""
    release: str
    """Identity of the release it was tuned on: name and version."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How it was tuned, for people to read."""

    def save(self, folder: Path | str) -> Path:
        """Write concept.safetensors and concept.json; the folder appears by rename, when whole."""
        folder = Path(folder)
        if folder.exists():
            raise ModelError(f"{folder} exists; give another output or delete it")
        aside = folder.with_name(f".{folder.name}.partial")
        aside.mkdir(parents=True, exist_ok=True)
        tensors = {f"unet/{name}": tensor for name, tensor in self.unet.items()}
        tensors |= {f"encoder/{name}": tensor for name, tensor in self.encoder.items()}
        save_file({**tensors, "class_tokens": self.class_tokens.contiguous()}, aside / _WEIGHTS)
        config = {"format_version": FORMAT_VERSION, "release": self.release, "settings": self.settings}
        (aside / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        return aside.rename(folder)

    @classmethod
    def load(cls, folder: Path | str) -> "Concept":
        """Read a concept folder. Raises ModelError if it is missing, broken, or of a newer format."""
        folder = Path(folder)
        try:
            config = json.loads((folder / _CONFIG).read_text())
            tensors = load_file(folder / _WEIGHTS)
        except (OSError, json.JSONDecodeError, SafetensorError) as error:
            raise ModelError(f"{folder} is not a whole concept folder ({error}); make one with `e4t tune`") from error
        if config["format_version"] > FORMAT_VERSION:
            raise ModelError(
                f"{folder} has concept format {config['format_version']}, "
                f"this e4t reads up to {FORMAT_VERSION}; upgrade e4t"
            )
        parts: dict[str, dict[str, Tensor]] = {"unet": {}, "encoder": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            if part in parts:
                parts[part][name] = tensor
        return cls(
            **parts, class_tokens=tensors["class_tokens"], release=config["release"], settings=config["settings"]
        )


def difference(module: nn.Module, before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fp16 differences of the parameters named in ``before`` from their former values."""
    parameters = dict(module.named_parameters())
    return {name: (parameters[name].detach() - old).half().cpu().contiguous() for name, old in before.items()}


@torch.no_grad()
def add_difference(module: nn.Module, differences: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add differences to parameters; returns the former values, for ``restore``."""
    parameters = dict(module.named_parameters())
    if unknown := differences.keys() - parameters.keys():
        raise ModelError(
            f"the concept has a parameter that this model lacks, {sorted(unknown)[0]}; it was tuned on another release"
        )
    before = {name: parameters[name].detach().clone() for name in differences}
    for name, change in differences.items():
        parameters[name].add_(change.to(parameters[name]))
    return before


@torch.no_grad()
def restore(module: nn.Module, before: dict[str, Tensor]) -> None:
    """Put former values back, bit for bit."""
    parameters = dict(module.named_parameters())
    for name, value in before.items():
        parameters[name].copy_(value)
