"""The tensors of mkshing/e4t-diffusion's checkpoints: what they are called there, and what they are here."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionModel

from encoder.backbone.backbone import Backbone
from encoder.model.patch_encoder import PatchEncoder, PatchEncoderConfig
from encoder.model.weight_offsets import MatrixOffset, Offsets, attention_projections
from encoder.releases.torch_file import read_tensors

OFFSET_PARTS = {
    "constant": "v",
    "to_x": "linear1",
    "to_y": "linear2",
    "columns": "linear_column",
    "rows": "linear_row",
}
ENCODER_PARTS = {
    "from_unet": "unet_feature_embedder",
    "joined": "feature_linear",
    "from_clip": "first_linears",
    "to_embedding": "final_linear",
}
"""Both by our names."""
TOWER = "clip_vision."
TOWER_PARTS = {
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
"""By transformers' names, parts of open_clip's."""
THIRDS = ("q_proj.", "k_proj.", "v_proj.")
"""What open_clip holds as one, ``in_proj_weight`` and ``in_proj_bias``, in this order."""


def offset_names(unet: UNet2DConditionModel) -> dict[str, dict[str, str]]:
    """For each projection of ours, ``...attn1.to_q``, the names there by our own of a ``MatrixOffset``."""
    with torch.device("meta"):
        parts = MatrixOffset(1, 1).state_dict()
    return {
        name: {part: f"{name.replace('.to_', '.wo_')}.{_renamed(part, OFFSET_PARTS)}" for part in parts}
        for name in attention_projections(unet)
    }


def offset_shapes(unet: UNet2DConditionModel) -> dict[str, tuple[int, ...]]:
    """Shapes of what weight_offsets.pt holds for this UNet, by the names there."""
    projections, names = attention_projections(unet), offset_names(unet)
    return {
        names[name][part]: tuple(tensor.shape)
        for name, linear in projections.items()
        for part, tensor in _blank(linear.out_features, linear.in_features).state_dict().items()
    }


@torch.no_grad()
def read_offsets(path: Path, unet: UNet2DConditionModel) -> Offsets:
    """The offsets of weight_offsets.pt, collapsed: 1.5 MB instead of 573 MB for Stable Diffusion 1.x, the same Delta.

    Of ``unet`` only shapes are needed. Raises ModelError as ``read_tensors`` does.
    """
    tensors, offsets = read_tensors(path, offset_shapes(unet)), Offsets()
    for name, parts in offset_names(unet).items():
        linear = unet.get_submodule(name)
        matrix = _blank(linear.out_features, linear.in_features)
        matrix.load_state_dict({part: tensors[theirs].double() for part, theirs in parts.items()}, assign=True)
        u, v = matrix()
        offsets[name] = (u.float(), v.float())
    return offsets


def read_encoder(path: Path, backbone: Backbone) -> tuple[PatchEncoder, CLIPVisionModel | None]:
    """The encoder of encoder.pt, and the picture tower that it was trained with, if that is inside.

    Of ``backbone`` only shapes are needed. Raises ModelError as ``read_tensors`` does.
    """
    with torch.device("meta"):
        encoder = PatchEncoder(PatchEncoderConfig.for_backbone(backbone))
    names = {part: _renamed(part, ENCODER_PARTS) for part in encoder.state_dict()}
    shapes = {names[part]: tuple(tensor.shape) for part, tensor in encoder.state_dict().items()}
    tensors = read_tensors(path, shapes, tower_shapes(backbone.clip))
    encoder.load_state_dict({part: tensors[theirs].float() for part, theirs in names.items()}, assign=True)
    if not any(name.startswith(TOWER) for name in tensors):
        return encoder, None
    with torch.device("meta"):
        tower = CLIPVisionModel(backbone.clip.config)
    tower.load_state_dict({name: _of_tower(name, tensors) for name in tower.state_dict()}, assign=True)
    return encoder, tower


def tower_shapes(clip: CLIPVisionModel) -> dict[str, tuple[int, ...]]:
    """Shapes of what encoder.pt holds of the picture tower, by the names there."""
    shapes = {}
    for name, tensor in clip.state_dict().items():
        theirs, third = _in_open_clip(name)
        shapes[theirs] = tuple(tensor.shape) if third is None else (3 * tensor.shape[0], *tensor.shape[1:])
    return shapes


def _of_tower(name: str, tensors: dict[str, Tensor]) -> Tensor:
    theirs, third = _in_open_clip(name)
    tensor = tensors[theirs] if third is None else tensors[theirs].chunk(3)[third]
    return tensor.float().clone()  # thirds of one tensor could not be saved


def _in_open_clip(name: str) -> tuple[str, int | None]:
    """The name there of a tensor of transformers' tower, and which third of it this is."""
    third = next((index for index, part in enumerate(THIRDS) if part in name), None)
    if third is not None:
        name = name.replace(THIRDS[third], "in_proj_")
    for ours, theirs in TOWER_PARTS.items():
        name = name.replace(ours, theirs)
    return TOWER + name, third


def _blank(out_features: int, in_features: int) -> MatrixOffset:
    with torch.device("meta"):
        return MatrixOffset(out_features, in_features)


def _renamed(part: str, names: dict[str, str]) -> str:
    first, dot, rest = part.partition(".")
    return names[first] + dot + rest
