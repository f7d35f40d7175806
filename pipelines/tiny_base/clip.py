"""Train a CLIP model of the domain: image and text encoder, contrastively (Radford et al., arXiv 2103.00020)."""

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from encoder.backbone.backbone import CLIP_MEAN, CLIP_STD, preprocess_clip
from pipelines.tiny_base.config import BaseConfig
from pipelines.tiny_base.dataset import CaptionedImages, random_batches
from pipelines.tiny_base.loop import init_from, to_fp16, train

CAPTION_WEIGHTS = (3, 2, 3, 3)
"""Sampling weights of the captions: scene, complete, person only, partial. The person is named often enough that the
image encoder learns to distinguish people."""


def train_clip(
    config: BaseConfig, dataset: CaptionedImages, tokenizer: CLIPTokenizer, accelerator: Accelerator
) -> None:
    """Train and save both encoders, the tokenizer and the image processor to ``<output>/clip``."""
    torch.manual_seed(config.seed)
    tokens = [tokenizer(captions, padding="max_length", return_tensors="pt").input_ids for captions in dataset.captions]
    folder = Path(config.output) / "clip"
    exists = (folder / "model.safetensors").exists()
    model = (
        CLIPModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        if exists
        else CLIPModel(_clip_config(config, tokenizer))
    )
    if config.init_from and not exists:
        init_from(
            model,
            CLIPModel.from_pretrained(config.init_from, subfolder="clip", dtype=torch.float32, use_safetensors=True),
        )
    tokenizer.save_pretrained(folder)
    size = config.resolution
    CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
    ).save_pretrained(folder)

    def save(ema: nn.Module) -> None:
        assert isinstance(ema, CLIPModel)  # noqa: S101 - narrows the type for mypy
        to_fp16(ema).save_pretrained(folder)

    batches = _image_caption_batches(
        dataset, torch.stack(tokens), config.clip.batch_size, config.seed + accelerator.process_index
    )
    train("clip", model, batches, _losses, save, config.clip, Path(config.output), accelerator)


def _clip_config(config: BaseConfig, tokenizer: CLIPTokenizer) -> CLIPConfig:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.text_width,
        "intermediate_size": 4 * config.text_width,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": config.text_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": config.text_width,
    }
    vision = {
        "hidden_size": config.image_width,
        "intermediate_size": 4 * config.image_width,
        "num_hidden_layers": config.image_layers,
        "num_attention_heads": 4,
        "image_size": config.resolution,
        "patch_size": config.patch_size,
        "projection_dim": config.text_width,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.text_width)


def _image_caption_batches(
    dataset: CaptionedImages, tokens: Tensor, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    for indices, rng in random_batches(dataset, batch_size, seed):
        caption_indices = torch.tensor(rng.choices(range(len(CAPTION_WEIGHTS)), CAPTION_WEIGHTS, k=batch_size))
        yield preprocess_clip(dataset.images(indices), dataset.pixels.shape[-1]), tokens[indices, caption_indices]


def _losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    images, tokens = batch
    logits = model(input_ids=tokens, pixel_values=images).logits_per_image
    target = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return {"loss": loss, "top1": (logits.argmax(1) == target).float().mean()}
