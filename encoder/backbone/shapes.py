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

from e4t import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import TextEncoders
from encoder.config import BackboneConfig

DUMMY_TOKEN = "a"
"""The one word that an outline's tokenizers know."""


def build_meta_backbone(config: BackboneConfig, device: torch.device | str = "meta") -> Backbone:
    """A backbone of a base's shapes; its weights are whatever the device holds, on the meta device nothing.

    The shapes come from published configurations, else from the base's own files; ConfigError if neither is there.
    """
    shapes = {**_base_shapes(config), "clip": _image_encoder_shape(config)}
    with torch.device(device), default_dtype(getattr(torch, config.dtype)):
        parts = {
            "vae": AutoencoderKL.from_config(shapes["vae"]),
            "unet": UNet2DConditionModel.from_config(shapes["unet"]),
            "text": _text_encoders(shapes),
            "clip": CLIPVisionModel(CLIPVisionConfig(**shapes["clip"])),
        }
    return Backbone(**parts, scheduler=DDIMScheduler.from_config(shapes["scheduler"]), config=config)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Modules are made in it, not converted to it: fake ones cannot be, and real ones would be held twice."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(previous)


def _text_encoders(shapes: Mapping[str, Any]) -> TextEncoders:
    configs = [CLIPTextConfig(**text) for text in shapes["text_encoders"]]
    encoders = [kind(each) for kind, each in zip((CLIPTextModel, CLIPTextModelWithProjection), configs, strict=False)]
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, f"{DUMMY_TOKEN}</w>": 2}
    tokenizers = [
        CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=each.max_position_embeddings) for each in configs
    ]
    return TextEncoders(encoders, tokenizers, force_zeros_for_empty_prompt=shapes.get("null_is_zero", False))


@cache
def published_configs() -> dict[str, dict[str, dict[str, Any]]]:
    """Published configurations: ``bases`` and ``clips``, by hub id."""
    configs: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(
        Path(__file__).with_name("published.yaml").read_text()
    )
    return configs


def _base_shapes(config: BackboneConfig) -> dict[str, Any]:
    if config.model in published_configs()["bases"]:
        return published_configs()["bases"][config.model]
    try:
        index = DiffusionPipeline.load_config(config.model, revision=config.revision)
        subfolders = [name for name in ("text_encoder", "text_encoder_2") if index.get(name, [None])[0]]
        return {
            "vae": AutoencoderKL.load_config(config.model, subfolder="vae", revision=config.revision),
            "unet": UNet2DConditionModel.load_config(config.model, subfolder="unet", revision=config.revision),
            "text_encoders": [_transformers_config(config.model, name, config.revision) for name in subfolders],
            "scheduler": DDIMScheduler.load_config(config.model, subfolder="scheduler", revision=config.revision),
            "null_is_zero": bool(index.get("force_zeros_for_empty_prompt", False)),
        }
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the shapes of base model {config.model} are not to be had: {reason}") from error


def _image_encoder_shape(config: BackboneConfig) -> dict[str, Any]:
    if config.image_encoder in published_configs()["clips"]:
        return published_configs()["clips"][config.image_encoder]
    try:
        clip_config = _transformers_config(
            config.image_encoder or config.model, "" if config.image_encoder else "clip", None
        )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the shape of the picture tower {config.image_encoder} is not to be had: {reason}"
        ) from error
    vision: dict[str, Any] = clip_config.get("vision_config", clip_config)
    return vision


def _transformers_config(model: str, subfolder: str, revision: str | None) -> dict[str, Any]:
    transformers_config: dict[str, Any] = AutoConfig.from_pretrained(
        model, subfolder=subfolder, revision=revision, trust_remote_code=False
    ).to_dict()
    return transformers_config
