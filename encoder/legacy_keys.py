"""Map names of older file formats to current ones.

Releases, concepts and checkpoints call these functions where they read a file; nothing else knows the old names.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

ENCODER_CONFIG_KEYS = {"map_channels": "feature_channels"}
"""Keys of ``domain_encoder/config.json``."""
_ENCODER_MODULES = {
    "from_clip": "clip_proj",
    "from_unet": "unet_proj",
    "joined": "fusion_proj",
    "to_embedding": "out_proj",
}
_ENCODER_TENSOR = re.compile(rf"^(encoder[./])?({'|'.join(_ENCODER_MODULES)})(?=\.)")
"""A domain encoder's tensor: alone, in a training state (``encoder.``) or in a concept (``encoder/``)."""
_OFFSET_TENSOR = re.compile(r"^(offsets\.)?matrices(?=\.\d+\.)")
"""An offset predictor's tensor: alone or in a training state (``offsets.``)."""


def rename_legacy_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a domain encoder's and an offset predictor's tensors to the current names; current names stay."""
    return {_current_name(name): tensor for name, tensor in tensors.items()}


def rename_keys(values: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """Rename the keys of a JSON object by a table of old to new keys; keys that are not in the table stay."""
    return {table.get(key, key): value for key, value in values.items()}


def _current_name(name: str) -> str:
    name = _ENCODER_TENSOR.sub(lambda match: (match[1] or "") + _ENCODER_MODULES[match[2]], name)
    return _OFFSET_TENSOR.sub(r"\1offsets", name)
