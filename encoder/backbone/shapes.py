"""A base's shapes without its weights, for planning and counting."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from transformers import (
    AutoConfig,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import TextEncoders
from encoder.config import BackboneConfig
from encoder.errors import ConfigError

WORD = "a"
"""The one word that an outline's tokenizers know."""


def outline(config: BackboneConfig, device: torch.device | str = "meta") -> Backbone:
    """A backbone of a base's shapes; its weights are whatever the device holds, on the meta device nothing.

    The shapes come from published configurations, else from the base's own files; ConfigError if neither is there.
    """
    shapes = {**_base(config), "clip": _clip(config)}
    with torch.device(device), default_dtype(getattr(torch, config.dtype)):
        parts = {
            "vae": AutoencoderKL.from_config(shapes["vae"]),
            "unet": UNet2DConditionModel.from_config(shapes["unet"]),
            "text": _texts(shapes),
            "clip": CLIPVisionModel(CLIPVisionConfig(**shapes["clip"])),
        }
    return Backbone(**parts, scheduler=DDIMScheduler.from_config(shapes["scheduler"]), config=config)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Modules are made in it, not converted to it: fake ones cannot be, and real ones would be held twice."""
    former = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(former)


def _texts(shapes: Mapping[str, Any]) -> TextEncoders:
    configs = [CLIPTextConfig(**text) for text in shapes["text_encoders"]]
    texts = [kind(each) for kind, each in zip((CLIPTextModel, CLIPTextModelWithProjection), configs, strict=False)]
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, f"{WORD}</w>": 2}
    tokenizers = [
        CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=each.max_position_embeddings) for each in configs
    ]
    return TextEncoders(texts, tokenizers, null_is_zero=shapes.get("null_is_zero", False))


@cache
def published() -> dict[str, dict[str, dict[str, Any]]]:
    """Published configurations: ``bases`` and ``clips``, by hub id."""
    found: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    return found


def _base(config: BackboneConfig) -> dict[str, Any]:
    if config.model in published()["bases"]:
        return published()["bases"][config.model]
    try:
        index = DiffusionPipeline.load_config(config.model, revision=config.revision)
        texts = [name for name in ("text_encoder", "text_encoder_2") if index.get(name, [None])[0]]
        return {
            "vae": AutoencoderKL.load_config(config.model, subfolder="vae", revision=config.revision),
            "unet": UNet2DConditionModel.load_config(config.model, subfolder="unet", revision=config.revision),
            "text_encoders": [_transformers(config.model, name, config.revision) for name in texts],
            "scheduler": DDIMScheduler.load_config(config.model, subfolder="scheduler", revision=config.revision),
            "null_is_zero": bool(index.get("force_zeros_for_empty_prompt", False)),
        }
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the shapes of base model {config.model} are not to be had: {reason}") from error


def _clip(config: BackboneConfig) -> dict[str, Any]:
    if config.clip in published()["clips"]:
        return published()["clips"][config.clip]
    try:
        found = _transformers(config.clip or config.model, "" if config.clip else "clip", None)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the shape of the picture tower {config.clip} is not to be had: {reason}") from error
    vision: dict[str, Any] = found.get("vision_config", found)
    return vision


def _transformers(model: str, subfolder: str, revision: str | None) -> dict[str, Any]:
    found: dict[str, Any] = AutoConfig.from_pretrained(
        model, subfolder=subfolder, revision=revision, trust_remote_code=False
    ).to_dict()
    return found
