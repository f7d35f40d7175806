"""Build base models without their weights, for planning and counting parameters."""

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

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.backbone.schedulers import ddim_scheduler
from encoder.backbone.text_encoders import TextEncoders
from encoder.config import BackboneConfig

DUMMY_TOKEN = "a"
"""The only word in the vocabulary of a meta backbone's tokenizers."""


def build_meta_backbone(config: BackboneConfig, device: torch.device | str = "meta") -> Backbone:
    """Build a backbone of the base model's shapes with uninitialized weights, by default on the meta device.

    The shapes come from ``published_configs.yaml``, else from the configuration files of the model. Raises ConfigError
    if there are neither.
    """
    shapes = {**_base_shapes(config), "image_encoder": _image_encoder_shape(config)}
    with torch.device(device), default_dtype(getattr(torch, config.dtype)):
        parts = {
            "vae": AutoencoderKL.from_config(shapes["vae"]),
            "unet": UNet2DConditionModel.from_config(shapes["unet"]),
            "text_encoders": _text_encoders(shapes),
            "image_encoder": CLIPVisionModel(CLIPVisionConfig(**shapes["image_encoder"])),
        }
    return Backbone(**parts, scheduler=ddim_scheduler(shapes["scheduler"], config.model), config=config)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Create modules in this precision: fake tensors cannot be converted, and real ones would be held twice."""
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
    return TextEncoders(
        encoders, tokenizers, force_zeros_for_empty_prompt=shapes.get("force_zeros_for_empty_prompt", False)
    )


@cache
def published_configs() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the configurations of published models, ``bases`` and ``image_encoders``, by hub id."""
    configs: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(
        Path(__file__).with_name("published_configs.yaml").read_text()
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
            "force_zeros_for_empty_prompt": bool(index.get("force_zeros_for_empty_prompt", False)),
        }
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"base model {config.model}: its configuration cannot be loaded: {reason}") from error


def _image_encoder_shape(config: BackboneConfig) -> dict[str, Any]:
    if config.image_encoder in published_configs()["image_encoders"]:
        return published_configs()["image_encoders"][config.image_encoder]
    try:
        clip_config = _transformers_config(
            config.image_encoder or config.model, "" if config.image_encoder else "clip", None
        )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"image encoder {config.image_encoder or config.model}: its configuration cannot be loaded: {reason}"
        ) from error
    vision: dict[str, Any] = clip_config.get("vision_config", clip_config)
    return vision


def _transformers_config(model: str, subfolder: str, revision: str | None) -> dict[str, Any]:
    transformers_config: dict[str, Any] = AutoConfig.from_pretrained(
        model, subfolder=subfolder, revision=revision, trust_remote_code=False
    ).to_dict()
    return transformers_config
