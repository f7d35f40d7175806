"""Read LoRA weights of diffusers, PEFT and kohya's trainer as weight deltas. What is not understood is refused."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from safetensors import safe_open
from torch import Tensor

from encoder.concepts.weight_deltas import LowRankDelta, WeightDeltas
from encoder.errors import ModelError

PARTS = ("unet", "text_encoder", "text_encoder_2")
"""Parts of a base model that LoRA weights can belong to, as diffusers prefixes their names."""
UP_SUFFIX, DOWN_SUFFIX = ".lora_B.weight", ".lora_A.weight"
UNSUPPORTED = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon with CP decomposition",
    "oft_": "OFT",
}
"""Parts of tensor names, and the methods that write them, whose weights are not a product of two matrices."""


def read_lora(path: Path) -> dict[str, WeightDeltas]:
    """Read a LoRA file as weight deltas by part of the base model, with its alphas applied.

    Raises ModelError if the file holds anything that is not the low-rank weight of a layer, so that nothing is lost in
    silence; and whatever safetensors and diffusers raise for a damaged file.
    """
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    for name in names:
        method = next((method for part, method in UNSUPPORTED.items() if part in name), None)
        if method:
            raise ModelError(f"{path.name} was trained with {method} ({name}); only plain LoRA weights are supported")
    layers, alphas, settings = StableDiffusionPipeline.lora_state_dict(
        path.parent, weight_name=path.name, use_safetensors=True, return_lora_metadata=True
    )
    given = [name for name in names if not name.endswith(".alpha")]
    if len(layers) != len(given):
        raise ModelError(f"{path.name}: diffusers understands {len(layers)} of its {len(given)} tensors")
    scales = _Scales(dict(alphas or {}), settings or {})
    deltas = {part: _read_part(part, layers, scales, path.name) for part in PARTS}
    if foreign := sorted(name for name in layers if not name.startswith(tuple(f"{part}." for part in PARTS))):
        raise ModelError(f"{path.name} has a layer {foreign[0]}, which belongs to no UNet or text encoder")
    scales.check_used(path.name)
    return {part: named for part, named in deltas.items() if named}


class _Scales:
    """The factors of the layers: alpha / rank, from tensors of the file or from PEFT's settings."""

    def __init__(self, alphas: dict[str, Any], settings: Mapping[str, Any]) -> None:
        self._alphas = {name: value for part in PARTS for name, value in _converted(part, alphas).items()}
        self._expected, self._settings = len(alphas), settings

    def of(self, part: str, module: str, rank: int) -> float:
        """Return the factor of a layer's delta."""
        for name in (f"{part}.{module}{DOWN_SUFFIX}.alpha", f"{part}.{module}.alpha"):
            if name in self._alphas:
                self._expected -= 1
                return float(self._alphas.pop(name)) / rank
        alpha = self._from_settings(part, module, "alpha_pattern", self._settings.get(f"{part}.lora_alpha", rank))
        return alpha / (math.sqrt(rank) if self._settings.get(f"{part}.use_rslora") else rank)

    def check_used(self, file: str) -> None:
        """Raise ModelError if an alpha belongs to no layer."""
        if self._alphas or self._expected:
            name = next(iter(self._alphas), "an alpha")
            raise ModelError(f"{file} has {name} without the layer that it scales")

    def _from_settings(self, part: str, module: str, key: str, default: float) -> float:
        """Return PEFT's value for a module: that of the first pattern that matches the end of its name."""
        patterns: Mapping[str, float] = self._settings.get(f"{part}.{key}") or {}
        return next((value for text, value in patterns.items() if re.fullmatch(rf"(.*\.)?({text})", module)), default)


def _read_part(part: str, layers: Mapping[str, Tensor], scales: _Scales, file: str) -> WeightDeltas:
    """Return the deltas of one part of the base model, by parameter."""
    prefix = f"{part}."
    named = {name.removeprefix(prefix): tensor for name, tensor in _converted(part, layers).items()}
    deltas: WeightDeltas = {}
    for name in [name for name in named if name.endswith(DOWN_SUFFIX)]:
        module, down = name.removesuffix(DOWN_SUFFIX), named.pop(name)
        up = named.pop(module + UP_SUFFIX, None)
        if up is None:
            raise ModelError(f"{file} is incomplete: {part}.{module} has no {UP_SUFFIX.lstrip('.')}; get it again")
        scale = scales.of(part, module, down.shape[0])
        # The weight of a convolution is a matrix with a column for each input channel and position of its kernel.
        deltas[f"{module}.weight"] = LowRankDelta((up.float() * scale).flatten(1).half(), down.flatten(1).half())
    if named:
        raise ModelError(f"{file} has {prefix}{sorted(named)[0]}, which is not a low-rank weight of a layer")
    return deltas


def _converted(part: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part's tensors with PEFT's names, after the part's prefix."""
    prefix = f"{part}."
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if part == "unet":
        converted = convert_unet_state_dict_to_peft(own)
    else:
        # This type's map has all names of diffusers; it would be inferred from the names only if they are complete.
        converted = convert_state_dict_to_peft(own, original_type=StateDictType.DIFFUSERS_OLD)
    return {prefix + name: value for name, value in converted.items()}
