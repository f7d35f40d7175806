"""The index of a release (index.json): its schema, reading it in every format version, and writing it."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from encoder.config import ConditioningConfig, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.legacy_keys import rename_keys

ConfigT = TypeVar("ConfigT")
FORMAT_VERSION = 2
"""Version 2 renamed keys of index.json; version 1 is still read."""
KIND = "e4t-domain-encoder"
INDEX = "index.json"
_TEXT_KEYS, _OBJECT_KEYS = ("name", "version"), ("base", "conditioning", "tuning", "sampling")
SETTINGS_KEYS = ("conditioning", "tuning", "sampling", "resolution")
"""Keys of index.json that decide, with the weights, what a release generates."""
_VERSION_1_KEYS = {
    "base": {"clip": "image_encoder"},
    "conditioning": {"residual_scale": "embedding_scale", "caption_share": "caption_probability"},
    "tuning": {
        "regulariser": "regularization_weight",
        "word": "token_type",
        "identifier": "rare_token",
        "train": "trainable",
        "text_encoder": "train_text_encoder",
        "prior_pictures": "num_class_images",
        "prior_weight": "prior_loss_weight",
        "stored_bits": "delta_bits",
    },
    "sampling": {"steps": "num_inference_steps", "guidance": "guidance_scale"},
}
"""Keys of index.json in version 1, and what version 2 calls them."""
_VERSION_1_VALUES = {"token_type": {"identifier": "rare_token"}, "trainable": {"nothing": "none"}}
"""Values of ``tuning`` in version 1, by version 2's keys."""


@dataclass(frozen=True, kw_only=True)
class ReleaseIndex:
    """The content of index.json."""

    name: str
    """Name of the domain encoder, such as ``faces``."""
    version: str
    """Semantic version."""
    base: dict[str, Any]
    """Base model: ``model`` (hub id, or path relative to the release folder), ``revision``, ``image_encoder``,
    ``dtype``."""
    conditioning: ConditioningConfig
    """How prompts name a concept."""
    tuning: TuneConfig
    """Recommended settings of tuning."""
    sampling: SampleConfig
    """Recommended settings of sampling."""
    resolution: int | None = None
    """Side in pixels of the training images; None in releases without this key, which used the base model's own."""

    @classmethod
    def from_dict(cls, folder: Path, recorded: dict[str, Any]) -> "ReleaseIndex":
        """Parse a dictionary of ``read_index``. Raises ModelError for settings that this version does not know."""
        index = upgrade_index(recorded)
        return ReleaseIndex(
            name=index["name"],
            version=index["version"],
            base=index["base"],
            conditioning=parse_config(folder, ConditioningConfig, index["conditioning"]),
            tuning=parse_config(folder, TuneConfig, index["tuning"]),
            sampling=parse_config(folder, SampleConfig, index["sampling"]),
            resolution=index.get("resolution"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of index.json in the current format version."""
        header = {"format_version": FORMAT_VERSION, "kind": KIND}
        return (
            header
            | {key: getattr(self, key) for key in ("name", "version", "base", "resolution")}
            | {
                "conditioning": asdict(self.conditioning),
                "tuning": asdict(self.tuning),
                "sampling": asdict(self.sampling),
            }
        )

    def save(self, folder: Path) -> None:
        """Write index.json to ``folder``."""
        (folder / INDEX).write_text(json.dumps(self.to_dict(), indent=1) + "\n")


def read_index(folder: Path) -> dict[str, Any]:
    """Read index.json as it is recorded. Raises ModelError if it is missing, damaged, or of a newer format."""
    recorded = read_json(folder, INDEX)
    if recorded.get("kind") != KIND or not isinstance(recorded.get("format_version"), int):
        raise ModelError(f"{folder / INDEX} does not describe a domain encoder; make a release with `e4t release`")
    if recorded["format_version"] > FORMAT_VERSION:
        raise ModelError(
            f"{folder} has release format {recorded['format_version']}, this e4t reads up to {FORMAT_VERSION}; "
            "upgrade e4t"
        )
    for key in (*_TEXT_KEYS, *_OBJECT_KEYS):
        if key not in recorded:
            raise ModelError(f"{folder / INDEX} lacks {key!r}; get the release again")
        if not isinstance(recorded[key], str if key in _TEXT_KEYS else dict):
            raise ModelError(f"{folder / INDEX}: {key} has a value of the wrong type; get the release again")
    return recorded


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of a release. Raises ModelError if it cannot be read."""
    try:
        data = json.loads((folder / name).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder} is not a release folder ({error}); make one with `e4t release`") from error
    if not isinstance(data, dict):
        raise ModelError(f"{folder / name} is not a JSON object; get the release again")
    return data


def upgrade_index(index: dict[str, Any]) -> dict[str, Any]:
    """Return index.json with the keys and values of the current format version."""
    if index["format_version"] != 1:
        return index
    renamed = {key: rename_keys(index[key], table) for key, table in _VERSION_1_KEYS.items()}
    for key, values in _VERSION_1_VALUES.items():
        recorded = renamed["tuning"].get(key)
        if isinstance(recorded, str):
            renamed["tuning"][key] = values.get(recorded, recorded)
    return index | renamed | {"format_version": FORMAT_VERSION}


def parse_config(folder: Path, config_type: Callable[..., ConfigT], values: dict[str, Any]) -> ConfigT:
    """Create a config from recorded values. Raises ModelError for keys that this version of e4t does not know."""
    try:
        return config_type(**values)
    except TypeError as error:
        raise ModelError(f"{folder}: {error}; upgrade e4t, or get the release again") from error


def resolve(model: str, folder: Path) -> str:
    """Make a base model's path (``./...`` or ``../...``) relative to the release folder absolute; hub ids stay."""
    return os.path.normpath(folder / model) if model.startswith(".") else model


def relative_to(model: str, folder: Path) -> str:
    """Make a local base model's path relative to the release folder (the inverse of ``resolve``); hub ids stay."""
    if not Path(model).exists():
        return model
    relative = os.path.relpath(model, folder)
    return relative if relative.startswith(".") else f"./{relative}"
