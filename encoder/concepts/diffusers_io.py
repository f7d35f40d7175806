"""Convert concepts to and from the files that diffusers loads: learned embeddings and LoRA weights."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import EncodedToken, LearnedToken, RareToken
from encoder.concepts.lora_files import DOWN_SUFFIX, UNSUPPORTED, UP_SUFFIX, read_lora
from encoder.concepts.weight_deltas import LowRankDelta, WeightDeltas
from encoder.errors import ModelError

TI_WEIGHTS_NAME = "learned_embeds.safetensors"
"""File that diffusers' ``load_textual_inversion`` reads from a folder."""
LORA_WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
"""File that diffusers' ``load_lora_weights`` reads from a folder."""
_SDXL_EMBEDDING_KEYS = ("clip_l", "clip_g")
"""Names of the embeddings of SDXL's two text encoders in such files."""


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
        layers[name.removesuffix(".weight") + UP_SUFFIX] = delta.up.contiguous()
        layers[name.removesuffix(".weight") + DOWN_SUFFIX] = delta.down.contiguous()
    return layers


def from_diffusers(path: Path | str, *, release: str, rare_token: str = "sks") -> Concept:
    """Read learned embeddings, LoRA weights, or both, as a concept of ``release``.

    ``path`` is a safetensors file of any name, or a folder with one file of each kind. Without embeddings, ``*s`` in
    prompts becomes ``rare_token`` and the domain word.

    Raises ModelError if there is neither, or several files of a kind, or if a file holds anything that a concept cannot
    hold.
    """
    path = Path(path)
    try:
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        lora_files = [file for file in files if _holds_lora(file)]
        embedding_files = [file for file in files if file not in lora_files]
        if not files:
            raise ModelError(
                f"{path} holds neither learned embeddings nor LoRA weights as .safetensors; give a file or folder that "
                "diffusers or kohya's trainer saved"
            )
        for several in (lora_files, embedding_files):
            if len(several) > 1:
                raise ModelError(f"{path} holds {several[0].name} and {several[1].name}; give one of the files")
        embeddings = load_file(embedding_files[0]) if embedding_files else {}
        deltas = read_lora(lora_files[0]) if lora_files else {}
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path} cannot be read ({error}); give what diffusers or kohya's trainer saved") from error
    token = _learned_token(embeddings, embedding_files[0].name) if embeddings else RareToken(rare_token)
    return Concept(weight_deltas=deltas, token=token, release=release, settings={})


def _holds_lora(path: Path) -> bool:
    """Return whether a file holds weights of layers; embeddings have names without the path of a layer."""
    with safe_open(path, framework="pt") as file:
        return any(marker in name for name in file.keys() for marker in ("lora", *UNSUPPORTED))  # noqa: SIM118


def _learned_token(tensors: dict[str, Tensor], file: str) -> LearnedToken:
    names = _SDXL_EMBEDDING_KEYS if tensors.keys() == set(_SDXL_EMBEDDING_KEYS) else tuple(tensors)[:1]
    parts = [tensors[name].float() for name in names]
    if len(tensors) != len(names):
        raise ModelError(f"{file} holds several embeddings ({', '.join(sorted(tensors)[:3])}); a concept has one")
    if any(part.shape[:-1].numel() != 1 for part in parts):
        raise ModelError(f"{file} holds an embedding of several vectors, {tuple(parts[0].shape)}; a concept has one")
    return LearnedToken(torch.cat([part.flatten() for part in parts]), tuple(part.numel() for part in parts))
