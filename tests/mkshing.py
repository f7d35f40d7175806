"""Files of mkshing/e4t-diffusion's layout with random weights: its names and shapes, written out here once more."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionModel

CONFIG = {
    "clip_model_name_or_path": "ViT-H-14::laion2b_s32b_b79k", "placeholder_token": "*s", "domain_class_token": "person",
    "domain_embed_scale": 0.1, "prompt_template": "face", "resolution": 32, "reg_lambda": 0.01,
}  # fmt: skip


def linear(name: str, inputs: int, outputs: int) -> dict[str, Tensor]:
    """A linear of that many inputs and outputs, as a state dict."""
    return {f"{name}.weight": torch.randn(outputs, inputs) / inputs**0.5, f"{name}.bias": torch.randn(outputs) / 10}


def weight_offsets(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """weight_offsets.pt: five parts hang on wo_q, wo_k and wo_v of each attention."""
    tensors = {}
    for name, module in unet.named_modules():
        if not name.endswith(("attn1", "attn2")):
            continue
        for letter in "qkv":
            outputs, inputs = getattr(module, f"to_{letter}").weight.shape
            place = f"{name}.wo_{letter}"
            tensors[f"{place}.v"] = torch.randn(1)
            tensors |= linear(f"{place}.linear1", 1, inputs) | linear(f"{place}.linear2", 1, outputs)
            tensors |= linear(f"{place}.linear_column", inputs, inputs)
            tensors |= linear(f"{place}.linear_row", outputs, outputs)
    return {name: tensor / 4 for name, tensor in tensors.items()}


def head(*, width: int, channels: int, tokens: int, embedding: int) -> dict[str, Tensor]:
    """What encoder.pt has beside the picture tower."""
    tensors = linear("unet_feature_embedder.0", channels, width) | linear("unet_feature_embedder.2", width, width)
    tensors |= linear("feature_linear", 2 * width, width) | linear("final_linear", width, embedding)
    for index in range(tokens):
        tensors |= linear(f"first_linears.{index}", width, width)
    return tensors


def tower(clip: CLIPVisionModel) -> dict[str, Tensor]:
    """A picture tower as open_clip names it: one matrix for queries, keys and values."""
    vision = clip
    tensors = {
        "class_embedding": vision.embeddings.class_embedding,
        "positional_embedding": vision.embeddings.position_embedding.weight,
        "conv1.weight": vision.embeddings.patch_embedding.weight,
        **{f"ln_pre.{key}": value for key, value in vision.pre_layrnorm.state_dict().items()},
        **{f"ln_post.{key}": value for key, value in vision.post_layernorm.state_dict().items()},
    }
    for index, layer in enumerate(vision.encoder.layers):
        place, attention = f"transformer.resblocks.{index}", layer.self_attn
        for kind in ("weight", "bias"):
            parts = [getattr(getattr(attention, f"{letter}_proj"), kind) for letter in "qkv"]
            tensors[f"{place}.attn.in_proj_{kind}"] = torch.cat(parts)
            tensors[f"{place}.attn.out_proj.{kind}"] = getattr(attention.out_proj, kind)
            tensors[f"{place}.ln_1.{kind}"] = getattr(layer.layer_norm1, kind)
            tensors[f"{place}.ln_2.{kind}"] = getattr(layer.layer_norm2, kind)
            tensors[f"{place}.mlp.c_fc.{kind}"] = getattr(layer.mlp.fc1, kind)
            tensors[f"{place}.mlp.c_proj.{kind}"] = getattr(layer.mlp.fc2, kind)
    return {f"clip_vision.{name}": tensor.detach().clone() for name, tensor in tensors.items()}


def every_channel(unet: UNet2DConditionModel) -> int:
    """Channels of everything that the UNet's encoder half hands on: after each layer and each downsampling, and mid."""
    channels, layers = unet.config.block_out_channels, unet.config.layers_per_block
    of_blocks = sum(layers * width for width in channels) + sum(channels[:-1])
    return int(channels[0] + of_blocks + channels[-1])


def write_checkpoint(folder: Path, base: Path, *, trained_tower: CLIPVisionModel | None = None, **config: Any) -> Path:
    """The three files, for a base; with the picture tower inside if it was trained."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    clip = CLIPVisionModel.from_pretrained(base / "clip")
    text = json.loads((base / "text_encoder" / "config.json").read_text())
    encoder = head(
        width=clip.config.hidden_size, channels=every_channel(unet), embedding=text["hidden_size"],
        tokens=1 + (clip.config.image_size // clip.config.patch_size) ** 2 // 2,
    )  # fmt: skip
    folder.mkdir(parents=True)
    torch.save(weight_offsets(unet), folder / "weight_offsets.pt")
    torch.save(encoder | (tower(trained_tower) if trained_tower else {}), folder / "encoder.pt")
    plain = CONFIG | {"pretrained_model_name_or_path": str(base)} | config
    (folder / "config.json").write_text(json.dumps(plain))
    return folder
