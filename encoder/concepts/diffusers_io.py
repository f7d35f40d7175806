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
from encoder.concepts.concept_tokens import Identifier, LearnedWord, PictureWord
from encoder.concepts.weight_deltas import Changes, LowRank
from encoder.errors import ModelError

EMBEDDINGS = "learned_embeds.safetensors"
"""What ``load_textual_inversion`` looks for in a folder."""
LORA = "pytorch_lora_weights.safetensors"
"""What ``load_lora_weights`` looks for in a folder."""
_XL_PARTS = ("clip_l", "clip_g")
"""Embeddings of SDXL's two text encoders, as files name them."""
_UP, _DOWN = ".lora_B.weight", ".lora_A.weight"


def to_diffusers(concept: Concept, folder: Path | str, *, called: str = "<concept>") -> list[Path]:
    """Write what diffusers can hold of a concept: its learned word, ``called`` so, and its low-rank change of the UNet.

    Raises ModelError if the concept says or changes anything else: the domain encoder's word depends on the timestep,
    and whole weights are no low-rank change.
    """
    if isinstance(concept.word, PictureWord):
        raise ModelError("the domain encoder speaks of this concept, which diffusers' files cannot hold; tune another")
    changes = concept.changes.get("unet", {})
    if concept.changes.keys() - {"unet"} or not all(isinstance(change, LowRank) for change in changes.values()):
        raise ModelError("this concept changes whole weights; diffusers takes a low-rank change (tune.train lora)")
    folder, written = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(concept.word, LearnedWord):
        written.append(folder / EMBEDDINGS)
        parts = concept.word.embedding.split(concept.word.widths)
        names = _XL_PARTS if len(parts) == 2 else (called,)
        save_file({name: part.contiguous() for name, part in zip(names, parts, strict=True)}, written[-1])
    if changes:
        written.append(folder / LORA)
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=_layers(changes))
    return written


def _layers(changes: Changes) -> dict[str, Tensor]:
    layers = {}
    for name, change in changes.items():
        assert isinstance(change, LowRank)  # noqa: S101 - narrows the type for mypy
        layers[name.removesuffix(".weight") + _UP] = change.up.contiguous()
        layers[name.removesuffix(".weight") + _DOWN] = change.down.contiguous()
    return layers


def from_diffusers(folder: Path | str, *, release: str, identifier: str = "sks") -> Concept:
    """Read learned embeddings, a low-rank change of the UNet, or both, as a concept of ``release``.

    Without embeddings ``identifier`` is how prompts speak of it. Only safetensors are read. Raises ModelError if the
    folder holds neither, or what they hold is not of a linear layer of the UNet.
    """
    folder = Path(folder)
    try:
        embeddings = load_file(folder / EMBEDDINGS) if (folder / EMBEDDINGS).exists() else {}
        changes = _changes(folder) if (folder / LORA).exists() else {}
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{folder} cannot be read ({error}); give what diffusers has saved") from error
    if not embeddings and not changes:
        raise ModelError(f"{folder} holds neither {EMBEDDINGS} nor {LORA}; give a folder that diffusers has saved")
    word = _word(embeddings) if embeddings else Identifier(identifier)
    return Concept(changes={"unet": changes} if changes else {}, word=word, release=release, settings={})


def _word(tensors: dict[str, Tensor]) -> LearnedWord:
    names = _XL_PARTS if tensors.keys() == set(_XL_PARTS) else tuple(tensors)[:1]
    parts = [tensors[name].float() for name in names]
    if len(tensors) != len(names) or any(part.shape[:-1].numel() != 1 for part in parts):
        raise ModelError(f"{EMBEDDINGS} holds several words; a concept has one")
    return LearnedWord(torch.cat([part.flatten() for part in parts]), tuple(part.numel() for part in parts))


def _changes(folder: Path) -> Changes:
    """Whatever of the usual layouts the file has, diffusers' own or kohya's."""
    layers, alphas = StableDiffusionPipeline.lora_state_dict(folder, weight_name=LORA, use_safetensors=True)
    if foreign := sorted(name for name in layers if not name.startswith("unet.")):
        raise ModelError(f"{LORA} changes {foreign[0]}; a concept holds low-rank changes of the UNet alone")
    layers, alphas = (_in_peft_layout(named) for named in (layers, alphas or {}))
    changes: Changes = {}
    for name, down in layers.items():
        if not name.endswith(_DOWN):
            continue
        place, rank = name.removesuffix(_DOWN), down.shape[0]
        up = layers[place + _UP].float() * (alphas.get(f"{name}.alpha", rank) / rank)
        if up.ndim != 2:
            raise ModelError(f"{LORA} changes {place}; a concept holds low-rank changes of linear layers alone")
        changes[f"{place}.weight"] = LowRank(up.half(), down.half())
    return changes


def _in_peft_layout(named: dict[str, Any]) -> dict[str, Any]:
    bare = {name.removeprefix("unet."): value for name, value in named.items()}
    converted: dict[str, Any] = convert_unet_state_dict_to_peft(bare)
    return converted
