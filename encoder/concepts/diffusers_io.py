"""Concepts to and from the files that diffusers reads: learned embeddings, and low-rank changes."""

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
"""What ``load_textual_inversion`` looks for in a folder."""
LORA_WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
"""What ``load_lora_weights`` looks for in a folder."""
_SDXL_EMBEDDING_KEYS = ("clip_l", "clip_g")
"""Embeddings of SDXL's two text encoders, as files name them."""
_LORA_UP_SUFFIX, _LORA_DOWN_SUFFIX = ".lora_B.weight", ".lora_A.weight"


def to_diffusers(concept: Concept, folder: Path | str, *, token: str = "<concept>") -> list[Path]:
    """Write what diffusers can hold of a concept: its learned word, ``called`` so, and its low-rank change of the UNet.

    Raises ModelError if the concept says or changes anything else: the domain encoder's word depends on the timestep,
    and whole weights are no low-rank change.
    """
    if isinstance(concept.token, EncodedToken):
        raise ModelError("the domain encoder speaks of this concept, which diffusers' files cannot hold; tune another")
    deltas = concept.weight_deltas.get("unet", {})
    if concept.weight_deltas.keys() - {"unet"} or not all(isinstance(delta, LowRankDelta) for delta in deltas.values()):
        raise ModelError("this concept changes whole weights; diffusers takes a low-rank change (tune.trainable lora)")
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
    """Read learned embeddings, a low-rank change of the UNet, or both, as a concept of ``release``.

    Without embeddings ``identifier`` is how prompts speak of it. Only safetensors are read. Raises ModelError if the
    folder holds neither, or what they hold is not of a linear layer of the UNet.
    """
    folder = Path(folder)
    try:
        embeddings = load_file(folder / TI_WEIGHTS_NAME) if (folder / TI_WEIGHTS_NAME).exists() else {}
        deltas = _lora_deltas(folder) if (folder / LORA_WEIGHTS_NAME).exists() else {}
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{folder} cannot be read ({error}); give what diffusers has saved") from error
    if not embeddings and not deltas:
        raise ModelError(
            f"{folder} holds neither {TI_WEIGHTS_NAME} nor {LORA_WEIGHTS_NAME}; give a folder that diffusers has saved"
        )
    token = _learned_token(embeddings) if embeddings else RareToken(rare_token)
    return Concept(weight_deltas={"unet": deltas} if deltas else {}, token=token, release=release, settings={})


def _learned_token(tensors: dict[str, Tensor]) -> LearnedToken:
    names = _SDXL_EMBEDDING_KEYS if tensors.keys() == set(_SDXL_EMBEDDING_KEYS) else tuple(tensors)[:1]
    parts = [tensors[name].float() for name in names]
    if len(tensors) != len(names) or any(part.shape[:-1].numel() != 1 for part in parts):
        raise ModelError(f"{TI_WEIGHTS_NAME} holds several words; a concept has one")
    return LearnedToken(torch.cat([part.flatten() for part in parts]), tuple(part.numel() for part in parts))


def _lora_deltas(folder: Path) -> WeightDeltas:
    """Whatever of the usual layouts the file has, diffusers' own or kohya's."""
    layers, alphas = StableDiffusionPipeline.lora_state_dict(
        folder, weight_name=LORA_WEIGHTS_NAME, use_safetensors=True
    )
    if foreign := sorted(name for name in layers if not name.startswith("unet.")):
        raise ModelError(
            f"{LORA_WEIGHTS_NAME} changes {foreign[0]}; a concept holds low-rank changes of the UNet alone"
        )
    layers, alphas = (_to_peft_layout(named) for named in (layers, alphas or {}))
    deltas: WeightDeltas = {}
    for name, down in layers.items():
        if not name.endswith(_LORA_DOWN_SUFFIX):
            continue
        module_name, rank = name.removesuffix(_LORA_DOWN_SUFFIX), down.shape[0]
        up = layers[module_name + _LORA_UP_SUFFIX].float() * (alphas.get(f"{name}.alpha", rank) / rank)
        if up.ndim != 2:
            raise ModelError(
                f"{LORA_WEIGHTS_NAME} changes {module_name}; a concept holds low-rank changes of linear layers alone"
            )
        deltas[f"{module_name}.weight"] = LowRankDelta(up.half(), down.half())
    return deltas


def _to_peft_layout(tensors: dict[str, Any]) -> dict[str, Any]:
    unprefixed = {name.removeprefix("unet."): value for name, value in tensors.items()}
    converted: dict[str, Any] = convert_unet_state_dict_to_peft(unprefixed)
    return converted
