"""Read a released domain encoder from disk. It holds nothing of the base model, and nothing in it is unpickled."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from e4t_errors import ConfigError
from encoder.config import BackboneConfig, Precision
from encoder.errors import ModelError
from encoder.finite import check_finite
from encoder.legacy_keys import rename_legacy_tensors
from encoder.releases.index import (
    INDEX,
    SETTINGS_KEYS,
    ConfigT,
    ReleaseIndex,
    parse_config,
    read_index,
    read_json,
    resolve,
)

ENCODER, OFFSETS, PROVENANCE = "domain_encoder", "weight_offsets", "provenance.json"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
RELEASE_PATTERNS = ("README.md", "*.json", "*.png", "*.safetensors")
"""Patterns of the files of a release; ``*`` also matches folders."""
REQUIRED_FILES = {INDEX, f"{ENCODER}/{CONFIG}", f"{ENCODER}/{WEIGHTS}", f"{OFFSETS}/{WEIGHTS}"}
"""Files without which a release cannot be opened."""


@dataclass(frozen=True, kw_only=True)
class Release(ReleaseIndex):
    """An opened release folder."""

    folder: Path
    """Where the release is on this machine."""
    encoder_config: dict[str, Any]
    """Keyword arguments of ``build_encoder``."""
    recorded_settings: list[Any] = field(repr=False)
    """Conditioning, tuning, sampling and resolution as index.json holds them, for the digest."""

    @classmethod
    def open(cls, folder: str | Path) -> "Release":
        """Read the index of a release. Raises ModelError if it is missing, damaged, or of a newer format."""
        folder = Path(folder)
        recorded = read_index(folder)
        return cls(
            **vars(ReleaseIndex.from_dict(folder, recorded)),
            folder=folder,
            encoder_config=read_json(folder, f"{ENCODER}/{CONFIG}"),
            recorded_settings=[recorded.get(key) for key in SETTINGS_KEYS],
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

    def check_weights(self) -> None:
        """Raise ModelError if weights are missing, damaged, or hold values that are not finite."""
        for path in (self.folder / ENCODER / WEIGHTS, self.offsets):
            try:
                check_finite(load_file(path), str(path), "release an earlier checkpoint")
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{path} cannot be loaded ({error}); get the release again") from error

    def build(self, build_encoder: Callable[..., ConfigT]) -> ConfigT:
        """Call ``build_encoder`` with the encoder's config. Raises ModelError if it has keys unknown to this e4t."""
        return parse_config(self.folder, build_encoder, self.encoder_config)

    def load_encoder(self, encoder: nn.Module) -> None:
        """Load the released weights into ``encoder``. Raises ModelError if they are damaged or do not fit it."""
        path = self.folder / ENCODER / WEIGHTS
        try:
            tensors = load_file(path)
            check_finite(tensors, str(path), "get the release again, or release an earlier checkpoint")
            encoder.load_state_dict(rename_legacy_tensors(tensors))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"{path} cannot be loaded ({str(error).splitlines()[0]}); get the release again"
            ) from error
