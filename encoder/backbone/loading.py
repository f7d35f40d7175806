"""Load the components of a base model from a hub id or a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import (
    AltCLIPVisionModel,
    AutoConfig,
    ChineseCLIPVisionModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModel,
    MetaClip2VisionModel,
)

from e4t_errors import ConfigError
from encoder.backbone.schedulers import ddim_scheduler
from encoder.backbone.text_encoders import TextEncoders
from encoder.config import BackboneConfig
from encoder.hub_client import is_hub_id

TEXT_ENCODERS = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}
CLIP_IMAGE_ENCODERS = {
    "clip": CLIPVisionModel,
    "metaclip_2": MetaClip2VisionModel,
    "chinese_clip": ChineseCLIPVisionModel,
    "altclip": AltCLIPVisionModel,
}
"""CLIP image encoders with a class token, by the model type of their configuration."""


def load_parts(config: BackboneConfig) -> dict[str, Any]:
    """Load every component of a base model, by the name of ``Backbone``'s argument.

    Raises ConfigError if the id or folder holds no Stable Diffusion model, or if there is no CLIP image encoder.
    """
    if not Path(config.model).exists() and not is_hub_id(config.model):
        raise ConfigError(f"base model {config.model}: there is no such folder, and it is not a hub id (owner/name)")
    try:
        index = DiffusionPipeline.load_config(config.model, revision=config.revision)
        return {
            "vae": _vae(config),
            "text_encoders": _text_encoders(config, index),
            "unet": _unet(config),
            "scheduler": ddim_scheduler(
                DDIMScheduler.load_config(config.model, subfolder="scheduler", revision=config.revision), config.model
            ),
            "image_encoder": _image_encoder(config),
        }
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"base model {config.model} cannot be loaded: {reason} Give a folder or hub id of a Stable Diffusion model "
            "with safetensors files; pickles (.bin, .ckpt) are never opened"
        ) from error


def _vae(config: BackboneConfig) -> AutoencoderKL:
    vae = _load_component(AutoencoderKL, config, "vae")
    if config.dtype == "float16" and vae.config.force_upcast:
        vae.float()  # its activations overflow float16
    return vae


def _text_encoders(config: BackboneConfig, index: Mapping[str, Any]) -> TextEncoders:
    names = [name for name in ("text_encoder", "text_encoder_2") if index.get(name, [None])[0]]
    encoders = [_load_component(TEXT_ENCODERS[index[name][1]], config, name) for name in names]
    tokenizers = [
        CLIPTokenizer.from_pretrained(
            config.model, subfolder=name.replace("text_encoder", "tokenizer"), revision=config.revision
        )
        for name in names
    ]
    return TextEncoders(
        encoders, tokenizers, force_zeros_for_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", False))
    )


def _unet(config: BackboneConfig) -> UNet2DConditionModel:
    unet = _load_component(UNet2DConditionModel, config, "unet")
    if unet.config.addition_embed_type not in (None, "text_time"):
        raise ConfigError(
            f"base model {config.model}: its UNet needs {unet.config.addition_embed_type!r} conditions; "
            "only Stable Diffusion 1.x, 2.x and XL are supported"
        )
    return unet


def _image_encoder(config: BackboneConfig) -> CLIPVisionModel:
    source: dict[str, Any] = {"pretrained_model_name_or_path": config.image_encoder or config.model}
    if config.image_encoder is None:
        source |= {"subfolder": "clip", "revision": config.revision}
    family = AutoConfig.from_pretrained(**source, trust_remote_code=False).model_type.removesuffix("_vision_model")
    if family not in CLIP_IMAGE_ENCODERS:
        raise ConfigError(
            f"image encoder {config.image_encoder or config.model} is of type {family!r}; "
            f"give one of {', '.join(sorted(CLIP_IMAGE_ENCODERS))}"
        )
    return CLIP_IMAGE_ENCODERS[family].from_pretrained(
        **source, dtype=getattr(torch, config.dtype), use_safetensors=True
    )


def _load_component(model_class: type, config: BackboneConfig, name: str) -> Any:  # noqa: ANN401 - an instance of model_class
    dtype = getattr(torch, config.dtype)
    return model_class.from_pretrained(  # type: ignore[attr-defined]
        config.model, subfolder=name, revision=config.revision, dtype=dtype, use_safetensors=True
    )
