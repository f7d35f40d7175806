"""Read the tensors of mkshing/e4t-diffusion's checkpoints under this project's names."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionModel

from encoder.backbone.backbone import Backbone
from encoder.model.patch_encoder import PatchEncoder, PatchEncoderConfig
from encoder.model.weight_offsets import Offsets, OverparametrizedOffset, attention_projections
from encoder.releases.torch_file import read_tensors

OFFSET_PARTS = {
    "constant": "v",
    "to_x": "linear1",
    "to_y": "linear2",
    "columns": "linear_column",
    "rows": "linear_row",
}
ENCODER_PARTS = {
    "unet_proj": "unet_feature_embedder",
    "fusion_proj": "feature_linear",
    "clip_proj": "first_linears",
    "out_proj": "final_linear",
}
"""Names of submodules in weight_offsets.pt and encoder.pt, by this project's names."""
VISION_PREFIX = "clip_vision."
VISION_PARTS = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.patch_embedding": "conv1",
    "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post",
    "encoder.layers": "transformer.resblocks",
    "layer_norm": "ln_",
    "self_attn": "attn",
    "fc1": "c_fc",
    "fc2": "c_proj",
}
"""Parts of open_clip's tensor names, by those of transformers."""
QKV = ("q_proj.", "k_proj.", "v_proj.")
"""Projections that open_clip stores as one tensor, ``in_proj_weight`` or ``in_proj_bias``, in this order."""


def offset_names(unet: UNet2DConditionModel) -> dict[str, dict[str, str]]:
    """Map each projection (``...attn1.to_q``) to the names in weight_offsets.pt of its ``OverparametrizedOffset``."""
    with torch.device("meta"):
        parts = OverparametrizedOffset(1, 1).state_dict()
    return {
        name: {part: f"{name.replace('.to_', '.wo_')}.{_map_prefix(part, OFFSET_PARTS)}" for part in parts}
        for name in attention_projections(unet)
    }


def offset_shapes(unet: UNet2DConditionModel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of weight_offsets.pt for this UNet, by their names in the file."""
    projections, names = attention_projections(unet), offset_names(unet)
    return {
        names[name][part]: tuple(tensor.shape)
        for name, linear in projections.items()
        for part, tensor in _meta_offset(linear.out_features, linear.in_features).state_dict().items()
    }


@torch.no_grad()
def read_offsets(path: Path, unet: UNet2DConditionModel) -> Offsets:
    """Read the offsets of weight_offsets.pt and collapse them to low-rank factors, which give the same Delta.

    For Stable Diffusion 1.x, the factors take 1.5 MB instead of 573 MB. ``unet`` may be on the meta device. Raises
    ModelError as ``read_tensors`` does.
    """
    tensors, offsets = read_tensors(path, offset_shapes(unet)), Offsets()
    for name, parts in offset_names(unet).items():
        linear = unet.get_submodule(name)
        offset = _meta_offset(linear.out_features, linear.in_features)
        offset.load_state_dict(
            {part: tensors[source_name].double() for part, source_name in parts.items()}, assign=True
        )
        u, v = offset()
        offsets[name] = (u.float(), v.float())
    return offsets


def read_encoder(path: Path, backbone: Backbone) -> tuple[PatchEncoder, CLIPVisionModel | None]:
    """Read the encoder of encoder.pt, and the CLIP image encoder that was trained with it if the file holds one.

    ``backbone`` may be on the meta device. Raises ModelError as ``read_tensors`` does.
    """
    with torch.device("meta"):
        encoder = PatchEncoder(PatchEncoderConfig.for_backbone(backbone))
    names = {part: _map_prefix(part, ENCODER_PARTS) for part in encoder.state_dict()}
    shapes = {names[part]: tuple(tensor.shape) for part, tensor in encoder.state_dict().items()}
    tensors = read_tensors(path, shapes, vision_shapes(backbone.image_encoder))
    encoder.load_state_dict({part: tensors[source_name].float() for part, source_name in names.items()}, assign=True)
    if not any(name.startswith(VISION_PREFIX) for name in tensors):
        return encoder, None
    with torch.device("meta"):
        image_encoder = CLIPVisionModel(backbone.image_encoder.config)
    image_encoder.load_state_dict(
        {name: _vision_tensor(name, tensors) for name in image_encoder.state_dict()}, assign=True
    )
    return encoder, image_encoder


def vision_shapes(image_encoder: CLIPVisionModel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the CLIP image encoder's tensors in encoder.pt, by their names in the file."""
    shapes = {}
    for name, tensor in image_encoder.state_dict().items():
        open_clip_name, qkv_index = _open_clip_name(name)
        shapes[open_clip_name] = tuple(tensor.shape) if qkv_index is None else (3 * tensor.shape[0], *tensor.shape[1:])
    return shapes


def _vision_tensor(name: str, tensors: dict[str, Tensor]) -> Tensor:
    open_clip_name, qkv_index = _open_clip_name(name)
    tensor = tensors[open_clip_name] if qkv_index is None else tensors[open_clip_name].chunk(3)[qkv_index]
    return tensor.float().clone()  # safetensors refuses to save views of one tensor


def _open_clip_name(name: str) -> tuple[str, int | None]:
    """Return a tensor's name in encoder.pt, and for a query, key or value projection its index in ``QKV``."""
    qkv_index = next((index for index, part in enumerate(QKV) if part in name), None)
    if qkv_index is not None:
        name = name.replace(QKV[qkv_index], "in_proj_")
    for transformers_part, open_clip_part in VISION_PARTS.items():
        name = name.replace(transformers_part, open_clip_part)
    return VISION_PREFIX + name, qkv_index


def _meta_offset(out_features: int, in_features: int) -> OverparametrizedOffset:
    with torch.device("meta"):
        return OverparametrizedOffset(out_features, in_features)


def _map_prefix(part: str, names: dict[str, str]) -> str:
    first, dot, rest = part.partition(".")
    return names[first] + dot + rest
