"""A released domain encoder on disk: reading it. Nothing of the base model is inside, and nothing is ever unpickled."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from e4t import ConfigError
from encoder.config import BackboneConfig, Precision
from encoder.errors import ModelError
from encoder.legacy_keys import rename_legacy_tensors

ConfigT = TypeVar("ConfigT")
FORMAT_VERSION = 1
KIND = "e4t-domain-encoder"
INDEX, ENCODER, OFFSETS, PROVENANCE = "index.json", "domain_encoder", "weight_offsets", "provenance.json"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
RELEASE_PATTERNS = ("README.md", "*.json", "*.png", "*.safetensors")
"""What a release is made of; * stands for folders, too."""
REQUIRED_FILES = {INDEX, f"{ENCODER}/{CONFIG}", f"{ENCODER}/{WEIGHTS}", f"{OFFSETS}/{WEIGHTS}"}
"""Without these it does not open."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """An opened release folder."""

    folder: Path
    name: str
    version: str
    base: dict[str, Any]
    """``model`` (hub id, or a path relative to the release folder), ``revision``, ``clip``, ``dtype``."""
    encoder_config: dict[str, Any]
    conditioning: dict[str, Any]
    tuning: dict[str, Any]
    sampling: dict[str, Any]
    resolution: int | None = None
    """Side in pixels of the pictures it was trained on; None in releases that do not say: the base's own."""

    @classmethod
    def open(cls, folder: str | Path) -> "Release":
        """Read a release's index. Raises ModelError if it is missing, broken, or of a newer format."""
        folder = Path(folder)
        index = _read_json(folder, INDEX)
        if index.get("kind") != KIND or not isinstance(index.get("format_version"), int):
            raise ModelError(f"{folder / INDEX} does not describe a domain encoder; make a release with `e4t release`")
        if index["format_version"] > FORMAT_VERSION:
            found = index["format_version"]
            raise ModelError(f"{folder} has release format {found}, this e4t reads up to {FORMAT_VERSION}; upgrade e4t")
        try:
            fields = {key: index[key] for key in ("name", "version", "base", "conditioning", "tuning", "sampling")}
        except KeyError as error:
            raise ModelError(f"{folder / INDEX} lacks {error}; get the release again") from error
        if mistyped := [
            key for key, value in fields.items() if isinstance(value, dict) is (key in ("name", "version"))
        ]:
            raise ModelError(f"{folder / INDEX}: {mistyped[0]} is no such thing; get the release again")
        encoder_config = _read_json(folder, f"{ENCODER}/{CONFIG}")
        return cls(folder=folder, encoder_config=encoder_config, resolution=index.get("resolution"), **fields)

    @property
    def id(self) -> str:
        """Name and version: what a concept says that it was tuned on."""
        return f"{self.name} {self.version}"

    @cached_property
    def content_digest(self) -> str:
        """Sha256 of what it does: weights and settings. What it says of itself, its version even, may change.

        Raises ModelError if weights are missing.
        """
        try:
            weights = [
                hashlib.sha256((self.folder / part / WEIGHTS).read_bytes()).hexdigest() for part in (ENCODER, OFFSETS)
            ]
        except OSError as error:
            raise ModelError(f"{self.folder} lacks weights ({error}); get the release again") from error
        settings = [self.conditioning, self.tuning, self.sampling, self.resolution]
        return hashlib.sha256(json.dumps([settings, weights], sort_keys=True).encode()).hexdigest()

    @property
    def offsets(self) -> Path:
        """The collapsed weight offsets' file."""
        return self.folder / OFFSETS / WEIGHTS

    def backbone_config(self, base: str | None = None, dtype: Precision | None = None) -> BackboneConfig:
        """Where the base model is to be had and how it is held; ``base`` and ``dtype`` override it.

        A picture tower that is not where it was is the given base's own. Raises ConfigError if no base is given and the
        release's lay beside it on the machine that made it, and is not here.
        """
        image_encoder = self.base.get("clip")
        missing = [model for model in (self.base["model"], image_encoder) if model and self._missing_local(model)]
        if missing and not base:
            raise ConfigError(
                f"{self.id} was made on {missing[0]}, as seen from its folder, and that is not here; "
                "say where the base model is with --base, a folder or hub id"
            )
        return BackboneConfig(
            model=base or resolve(self.base["model"], self.folder),
            revision=None if base else self.base.get("revision"),
            image_encoder=None if image_encoder in missing else image_encoder and resolve(image_encoder, self.folder),
            dtype=dtype or self.base.get("dtype", "float32"),
        )

    def _missing_local(self, model: str) -> bool:
        """Whether it is a folder, relative to the release's, that has not come along: a download brings none."""
        return model.startswith(".") and not Path(resolve(model, self.folder)).exists()

    def parse(self, config_type: Callable[..., ConfigT], values: dict[str, Any]) -> ConfigT:
        """What the release says, as a configuration. Raises ModelError if it says what this e4t does not know."""
        try:
            return config_type(**values)
        except TypeError as error:
            raise ModelError(f"{self.folder}: {error}; upgrade e4t, or get the release again") from error

    def load_encoder(self, encoder: nn.Module) -> None:
        """Read the domain encoder's weights into ``encoder``. Raises ModelError if they are broken or do not fit."""
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


def resolve(model: str, folder: Path) -> str:
    """A base recorded as ``./...`` or ``../...`` is relative to the release folder; anything else stands as it is."""
    return os.path.normpath(folder / model) if model.startswith(".") else model


def relative_to(model: str, folder: Path) -> str:
    """The inverse of ``resolve``: a local folder becomes relative to the release folder, a hub id stays."""
    if not Path(model).exists():
        return model
    relative = os.path.relpath(model, folder)
    return relative if relative.startswith(".") else f"./{relative}"
