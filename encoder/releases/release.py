"""Read a released domain encoder from disk. It holds nothing of the base model, and nothing in it is unpickled."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from e4t import ConfigError
from encoder.config import BackboneConfig, ConditioningConfig, Precision, SampleConfig, TuneConfig
from encoder.errors import ModelError
from encoder.legacy_keys import rename_keys, rename_legacy_tensors

ConfigT = TypeVar("ConfigT")
FORMAT_VERSION = 2
"""Version 2 renamed keys of index.json; version 1 is still read."""
KIND = "e4t-domain-encoder"
INDEX, ENCODER, OFFSETS, PROVENANCE = "index.json", "domain_encoder", "weight_offsets", "provenance.json"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
RELEASE_PATTERNS = ("README.md", "*.json", "*.png", "*.safetensors")
"""Patterns of the files of a release; ``*`` also matches folders."""
REQUIRED_FILES = {INDEX, f"{ENCODER}/{CONFIG}", f"{ENCODER}/{WEIGHTS}", f"{OFFSETS}/{WEIGHTS}"}
"""Files without which a release cannot be opened."""
_TEXT_KEYS, _OBJECT_KEYS = ("name", "version"), ("base", "conditioning", "tuning", "sampling")
_SETTINGS_KEYS = ("conditioning", "tuning", "sampling", "resolution")
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
class Release:
    """An opened release folder."""

    folder: Path
    """Where the release is on this machine."""
    name: str
    """Name of the domain encoder, such as ``faces``."""
    version: str
    """Semantic version."""
    base: dict[str, Any]
    """Base model: ``model`` (hub id, or path relative to the release folder), ``revision``, ``image_encoder``,
    ``dtype``."""
    encoder_config: dict[str, Any]
    """Keyword arguments of ``build_encoder``."""
    conditioning: ConditioningConfig
    """How prompts name a concept."""
    tuning: TuneConfig
    """Recommended settings of tuning."""
    sampling: SampleConfig
    """Recommended settings of sampling."""
    resolution: int | None = None
    """Side in pixels of the training images; None in releases without this key, which used the base model's own."""
    recorded_settings: list[Any] = field(repr=False)
    """Conditioning, tuning, sampling and resolution as index.json holds them, for the digest."""

    @classmethod
    def open(cls, folder: str | Path) -> "Release":
        """Read the index of a release. Raises ModelError if it is missing, damaged, or of a newer format."""
        folder = Path(folder)
        recorded = _read_json(folder, INDEX)
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
        index = upgrade_index(recorded)
        return cls(
            folder=folder,
            name=index["name"],
            version=index["version"],
            base=index["base"],
            encoder_config=_read_json(folder, f"{ENCODER}/{CONFIG}"),
            conditioning=_parse(folder, ConditioningConfig, index["conditioning"]),
            tuning=_parse(folder, TuneConfig, index["tuning"]),
            sampling=_parse(folder, SampleConfig, index["sampling"]),
            resolution=index.get("resolution"),
            recorded_settings=[recorded.get(key) for key in _SETTINGS_KEYS],
        )

    @property
    def id(self) -> str:
        """Name and version, which a concept records as the release that it was tuned on."""
        return f"{self.name} {self.version}"

    @cached_property
    def content_digest(self) -> str:
        """Sha256 of weights and settings: two releases with the same digest generate the same images.

        It covers the settings as they are recorded, so it does not change with the names that this version of e4t
        uses, nor with the release's version or model card. Raises ModelError if weights are missing.
        """
        try:
            weights = [
                hashlib.sha256((self.folder / part / WEIGHTS).read_bytes()).hexdigest() for part in (ENCODER, OFFSETS)
            ]
        except OSError as error:
            raise ModelError(f"{self.folder} lacks weights ({error}); get the release again") from error
        return hashlib.sha256(json.dumps([self.recorded_settings, weights], sort_keys=True).encode()).hexdigest()

    @property
    def offsets(self) -> Path:
        """File of the collapsed weight offsets."""
        return self.folder / OFFSETS / WEIGHTS

    def backbone_config(self, base: str | None = None, dtype: Precision | None = None) -> BackboneConfig:
        """Describe the base model that the release needs; ``base`` and ``dtype`` override it.

        With ``base``, an image encoder that is missing here is replaced by that base model's own. Raises ConfigError if
        no base is given and the release's own is a folder that exists only on the machine that made the release.
        """
        image_encoder = self.base.get("image_encoder")
        missing = [model for model in (self.base["model"], image_encoder) if model and self._missing_local(model)]
        if missing and not base:
            raise ConfigError(
                f"{self.id} needs the base model {missing[0]} (relative to the release folder), which does not exist; "
                "give the base model with --base, a folder or hub id"
            )
        return BackboneConfig(
            model=base or resolve(self.base["model"], self.folder),
            revision=None if base else self.base.get("revision"),
            image_encoder=None if image_encoder in missing else image_encoder and resolve(image_encoder, self.folder),
            dtype=dtype or self.base.get("dtype", "float32"),
        )

    def _missing_local(self, model: str) -> bool:
        """Return whether ``model`` is a folder relative to the release's that does not exist, as after a download."""
        return model.startswith(".") and not Path(resolve(model, self.folder)).exists()

    def build(self, build_encoder: Callable[..., ConfigT]) -> ConfigT:
        """Call ``build_encoder`` with the encoder's config. Raises ModelError if it has keys unknown to this e4t."""
        return _parse(self.folder, build_encoder, self.encoder_config)

    def load_encoder(self, encoder: nn.Module) -> None:
        """Load the released weights into ``encoder``. Raises ModelError if they are damaged or do not fit it."""
        path = self.folder / ENCODER / WEIGHTS
        try:
            encoder.load_state_dict(rename_legacy_tensors(load_file(path)))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"{path} cannot be loaded ({str(error).splitlines()[0]}); get the release again"
            ) from error


def _read_json(folder: Path, name: str) -> dict[str, Any]:
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


def _parse(folder: Path, config_type: Callable[..., ConfigT], values: dict[str, Any]) -> ConfigT:
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
