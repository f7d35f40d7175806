"""Tiny base models of every Stable Diffusion family, in the classes of the family, with random weights."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
)

SHIPPED = Path(__file__).parents[1] / "models" / "base"
UNETS: dict[str, dict] = {
    "sd1": {"cross_attention_dim": 24, "attention_head_dim": 4},
    "sd2": {"cross_attention_dim": 40, "attention_head_dim": [2, 4, 4], "use_linear_projection": True},
    "sdxl": {
        "cross_attention_dim": 24 + 40, "attention_head_dim": [2, 4, 4], "use_linear_projection": True,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 1, 2], "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 20,
    },
}  # fmt: skip


def make_base(folder: Path, family: str) -> Path:
    """Write a base model of a family for 32 x 32 pixels, with the tokenizer of the shipped base model."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer")
    unet = {
        "sample_size": 4, "block_out_channels": [16, 16, 32], "layers_per_block": 1, "norm_num_groups": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    }  # fmt: skip
    UNet2DConditionModel(**unet | UNETS[family]).save_pretrained(folder / "unet")
    blocks = {"block_out_channels": [8] * 4, "norm_num_groups": 4}
    down, up = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    AutoencoderKL(down_block_types=down, up_block_types=up, **blocks).save_pretrained(folder / "vae")
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=16
    )
    CLIPVisionModel(vision).save_pretrained(folder / "clip")
    prediction = "v_prediction" if family == "sd2" else "epsilon"
    DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    _save_text_encoders(folder, family, tokenizer)
    return folder


def _save_text_encoders(folder: Path, family: str, tokenizer: CLIPTokenizer) -> None:
    shared = {
        "vocab_size": len(tokenizer), "num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": 20,
        "max_position_embeddings": tokenizer.model_max_length, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    small = CLIPTextConfig(hidden_size=24, intermediate_size=48, **shared)
    large = CLIPTextConfig(hidden_size=40, intermediate_size=80, hidden_act="gelu", **shared)
    encoders = {
        "sd1": [CLIPTextModel(small)],
        "sd2": [CLIPTextModel(large)],
        "sdxl": [CLIPTextModel(small), CLIPTextModelWithProjection(large)] if family == "sdxl" else [],
    }[family]
    index = {"_class_name": "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"}
    for encoder, suffix in zip(encoders, ("", "_2"), strict=False):
        encoder.save_pretrained(folder / f"text_encoder{suffix}")
        if suffix:
            tokenizer.pad_token = "!"  # noqa: S105 - like the second tokenizer of SDXL
        tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
        index[f"text_encoder{suffix}"] = ["transformers", type(encoder).__name__]
        index[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
    index |= {
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }  # fmt: skip
    if family == "sdxl":
        index["force_zeros_for_empty_prompt"] = True
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
