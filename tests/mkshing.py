"""Write checkpoints in the layout of mkshing/e4t-diffusion, with its names and shapes and random weights."""

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
    """Return the state dict of a linear layer with random weights."""
    return {f"{name}.weight": torch.randn(outputs, inputs) / inputs**0.5, f"{name}.bias": torch.randn(outputs) / 10}


def weight_offsets(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Return the tensors of weight_offsets.pt: five parts of wo_q, wo_k and wo_v of each attention layer."""
    tensors = {}
    for name, module in unet.named_modules():
        if not name.endswith(("attn1", "attn2")):
            continue
        for letter in "qkv":
            outputs, inputs = getattr(module, f"to_{letter}").weight.shape
            prefix = f"{name}.wo_{letter}"
            tensors[f"{prefix}.v"] = torch.randn(1)
            tensors |= linear(f"{prefix}.linear1", 1, inputs) | linear(f"{prefix}.linear2", 1, outputs)
            tensors |= linear(f"{prefix}.linear_column", inputs, inputs)
            tensors |= linear(f"{prefix}.linear_row", outputs, outputs)
    return {name: tensor / 4 for name, tensor in tensors.items()}


def encoder_tensors(*, width: int, channels: int, tokens: int, embedding: int) -> dict[str, Tensor]:
    """Return the tensors of encoder.pt without the CLIP image encoder."""
    tensors = linear("unet_feature_embedder.0", channels, width) | linear("unet_feature_embedder.2", width, width)
    tensors |= linear("feature_linear", 2 * width, width) | linear("final_linear", width, embedding)
    for index in range(tokens):
        tensors |= linear(f"first_linears.{index}", width, width)
    return tensors


def open_clip_tensors(image_encoder: CLIPVisionModel) -> dict[str, Tensor]:
    """Return a CLIP image encoder under open_clip's names, which has one matrix for queries, keys and values."""
    tensors = {
        "class_embedding": image_encoder.embeddings.class_embedding,
        "positional_embedding": image_encoder.embeddings.position_embedding.weight,
        "conv1.weight": image_encoder.embeddings.patch_embedding.weight,
        **{f"ln_pre.{key}": value for key, value in image_encoder.pre_layrnorm.state_dict().items()},
        **{f"ln_post.{key}": value for key, value in image_encoder.post_layernorm.state_dict().items()},
    }
    for index, layer in enumerate(image_encoder.encoder.layers):
        prefix, attention = f"transformer.resblocks.{index}", layer.self_attn
        for kind in ("weight", "bias"):
            parts = [getattr(getattr(attention, f"{letter}_proj"), kind) for letter in "qkv"]
            tensors[f"{prefix}.attn.in_proj_{kind}"] = torch.cat(parts)
            tensors[f"{prefix}.attn.out_proj.{kind}"] = getattr(attention.out_proj, kind)
            tensors[f"{prefix}.ln_1.{kind}"] = getattr(layer.layer_norm1, kind)
            tensors[f"{prefix}.ln_2.{kind}"] = getattr(layer.layer_norm2, kind)
            tensors[f"{prefix}.mlp.c_fc.{kind}"] = getattr(layer.mlp.fc1, kind)
            tensors[f"{prefix}.mlp.c_proj.{kind}"] = getattr(layer.mlp.fc2, kind)
    return {f"clip_vision.{name}": tensor.detach().clone() for name, tensor in tensors.items()}


def feature_channels(unet: UNet2DConditionModel) -> int:
    """Sum of the channels of the UNet's skip connections and of its mid block."""
    channels, layers = unet.config.block_out_channels, unet.config.layers_per_block
    block_channels = sum(layers * width for width in channels) + sum(channels[:-1])
    return int(channels[0] + block_channels + channels[-1])


def write_checkpoint(
    folder: Path, base: Path, *, trained_image_encoder: CLIPVisionModel | None = None, **config: Any
) -> Path:
    """Write the three files for a base model, with the CLIP image encoder if it was trained."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    image_encoder = CLIPVisionModel.from_pretrained(base / "clip")
    text = json.loads((base / "text_encoder" / "config.json").read_text())
    encoder = encoder_tensors(
        width=image_encoder.config.hidden_size, channels=feature_channels(unet), embedding=text["hidden_size"],
        tokens=1 + (image_encoder.config.image_size // image_encoder.config.patch_size) ** 2 // 2,
    )  # fmt: skip
    folder.mkdir(parents=True)
    torch.save(weight_offsets(unet), folder / "weight_offsets.pt")
    torch.save(
        encoder | (open_clip_tensors(trained_image_encoder) if trained_image_encoder else {}), folder / "encoder.pt"
    )
    values = CONFIG | {"pretrained_model_name_or_path": str(base)} | config
    (folder / "config.json").write_text(json.dumps(values))
    return folder
