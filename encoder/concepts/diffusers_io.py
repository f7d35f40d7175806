"""Convert concepts to and from the files that diffusers loads: learned embeddings and LoRA weights."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import EncodedToken, LearnedToken, RareToken
from encoder.concepts.weight_deltas import LowRankDelta, WeightDeltas
from encoder.errors import ModelError

TI_WEIGHTS_NAME = "learned_embeds.safetensors"
"""File that diffusers' ``load_textual_inversion`` reads from a folder."""
LORA_WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
"""File that diffusers' ``load_lora_weights`` reads from a folder."""
_SDXL_EMBEDDING_KEYS = ("clip_l", "clip_g")
"""Names of the embeddings of SDXL's two text encoders in such files."""
_LORA_UP_SUFFIX, _LORA_DOWN_SUFFIX = ".lora_B.weight", ".lora_A.weight"


def to_diffusers(concept: Concept, folder: Path | str, *, token: str = "<concept>") -> list[Path]:
    """Write a concept as files for diffusers: its learned embedding under the name ``token``, and its LoRA of the UNet.

    Returns the files that were written. Raises ModelError if the concept holds anything else, which diffusers cannot
    load: a token that the domain encoder predicts depends on the timestep, and dense weight deltas are not low-rank.
    """
    if isinstance(concept.token, EncodedToken):
        raise ModelError(
            "the token of this concept is predicted by the domain encoder, which diffusers cannot load; "
            "tune with --token-type embedding or rare_token"
        )
    deltas = concept.weight_deltas.get("unet", {})
    if concept.weight_deltas.keys() - {"unet"} or not all(isinstance(delta, LowRankDelta) for delta in deltas.values()):
        raise ModelError(
            "this concept holds dense weight deltas, which diffusers cannot load; tune with --trainable lora"
        )
    folder, written = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(concept.token, LearnedToken):
        written.append(folder / TI_WEIGHTS_NAME)
        parts = concept.token.embedding.split(concept.token.widths)
        names = _SDXL_EMBEDDING_KEYS if len(parts) == 2 else (token,)
        save_file({name: part.contiguous() for name, part in zip(names, parts, strict=True)}, written[-1])
    if deltas:
        written.append(folder / LORA_WEIGHTS_NAME)
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=_lora_layers(deltas))
    return written


def _lora_layers(deltas: WeightDeltas) -> dict[str, Tensor]:
    layers = {}
    for name, delta in deltas.items():
        assert isinstance(delta, LowRankDelta)  # noqa: S101 - narrows the type for mypy
        layers[name.removesuffix(".weight") + _LORA_UP_SUFFIX] = delta.up.contiguous()
        layers[name.removesuffix(".weight") + _LORA_DOWN_SUFFIX] = delta.down.contiguous()
    return layers


def from_diffusers(folder: Path | str, *, release: str, rare_token: str = "sks") -> Concept:
    """Read learned embeddings, a LoRA of the UNet, or both, as a concept of ``release``.

    Without embeddings, ``*s`` in prompts becomes ``rare_token`` and the domain word. Only safetensors files are read.
    Raises ModelError if the folder holds neither, or the LoRA has layers other than linear layers of the UNet.
    """
    folder = Path(folder)
    try:
        embeddings = load_file(folder / TI_WEIGHTS_NAME) if (folder / TI_WEIGHTS_NAME).exists() else {}
        deltas = _lora_deltas(folder) if (folder / LORA_WEIGHTS_NAME).exists() else {}
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{folder} cannot be read ({error}); give a folder that diffusers saved") from error
    if not embeddings and not deltas:
        raise ModelError(
            f"{folder} holds neither {TI_WEIGHTS_NAME} nor {LORA_WEIGHTS_NAME}; give a folder that diffusers saved"
        )
    token = _learned_token(embeddings) if embeddings else RareToken(rare_token)
    return Concept(weight_deltas={"unet": deltas} if deltas else {}, token=token, release=release, settings={})


def _learned_token(tensors: dict[str, Tensor]) -> LearnedToken:
    names = _SDXL_EMBEDDING_KEYS if tensors.keys() == set(_SDXL_EMBEDDING_KEYS) else tuple(tensors)[:1]
    parts = [tensors[name].float() for name in names]
    if len(tensors) != len(names) or any(part.shape[:-1].numel() != 1 for part in parts):
        raise ModelError(f"{TI_WEIGHTS_NAME} holds several embeddings; a concept has one token")
    return LearnedToken(torch.cat([part.flatten() for part in parts]), tuple(part.numel() for part in parts))


def _lora_deltas(folder: Path) -> WeightDeltas:
    """Read LoRA weights in diffusers' or kohya's layout."""
    layers, alphas = StableDiffusionPipeline.lora_state_dict(
        folder, weight_name=LORA_WEIGHTS_NAME, use_safetensors=True
    )
    if foreign := sorted(name for name in layers if not name.startswith("unet.")):
        raise ModelError(f"{LORA_WEIGHTS_NAME} has a layer {foreign[0]}; only LoRA weights of the UNet are supported")
    layers, alphas = (_to_peft_layout(named) for named in (layers, alphas or {}))
    deltas: WeightDeltas = {}
    for name, down in layers.items():
        if not name.endswith(_LORA_DOWN_SUFFIX):
            continue
        module_name, rank = name.removesuffix(_LORA_DOWN_SUFFIX), down.shape[0]
        up = layers[module_name + _LORA_UP_SUFFIX].float() * (alphas.get(f"{name}.alpha", rank) / rank)
        if up.ndim != 2:
            raise ModelError(
                f"{LORA_WEIGHTS_NAME} has a layer {module_name}; only LoRA weights of linear layers are supported"
            )
        deltas[f"{module_name}.weight"] = LowRankDelta(up.half(), down.half())
    return deltas


def _to_peft_layout(tensors: dict[str, Any]) -> dict[str, Any]:
    unprefixed = {name.removeprefix("unet."): value for name, value in tensors.items()}
    converted: dict[str, Any] = convert_unet_state_dict_to_peft(unprefixed)
    return converted
