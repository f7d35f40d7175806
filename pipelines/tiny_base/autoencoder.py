"""Train the autoencoder: 64 x 64 pixels to 16 x 16 latents. It is convolutional, so crops suffice for training."""

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.tiny_base.config import BaseConfig
from pipelines.tiny_base.dataset import CaptionedImages, random_batches
from pipelines.tiny_base.loop import init_from, to_fp16, train

CROP_SIZE = 32
KL_WEIGHT = 2e-4
"""Weight of the mean KL divergence per latent element: low enough for sharp images, high enough to bound latents."""


def train_autoencoder(config: BaseConfig, dataset: CaptionedImages, accelerator: Accelerator) -> None:
    """Train the autoencoder and save it to ``<output>/vae``, with a scaling factor that gives latents unit variance."""
    torch.manual_seed(config.seed)
    folder = Path(config.output) / "vae"
    model = AutoencoderKL.from_pretrained(folder, use_safetensors=True) if folder.exists() else _new_autoencoder(config)
    if config.init_from and not folder.exists():
        init_from(model, AutoencoderKL.from_pretrained(config.init_from, subfolder="vae", use_safetensors=True))

    def save(ema: nn.Module) -> None:
        assert isinstance(ema, AutoencoderKL)  # noqa: S101 - narrows the type for mypy
        ema.register_to_config(scaling_factor=1 / float(_latent_std(ema, dataset)))
        to_fp16(ema).save_pretrained(folder)

    batches = _crop_batches(dataset, config.autoencoder.batch_size, config.seed + accelerator.process_index)
    train("autoencoder", model, batches, _losses, save, config.autoencoder, Path(config.output), accelerator)


def _new_autoencoder(config: BaseConfig) -> AutoencoderKL:
    blocks = len(config.autoencoder_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=config.autoencoder_channels,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        sample_size=config.resolution,
        mid_block_add_attention=False,
    )


def _crop_batches(dataset: CaptionedImages, batch_size: int, seed: int) -> Iterator[Tensor]:
    for indices, rng in random_batches(dataset, batch_size, seed):
        yield _random_crop(dataset.images(indices), rng)


def _random_crop(images: Tensor, rng: random.Random) -> Tensor:
    top, left = (rng.randint(0, images.shape[-1] - CROP_SIZE) for _ in range(2))
    return images[..., top : top + CROP_SIZE, left : left + CROP_SIZE]


def _losses(model: AutoencoderKL, images: Tensor) -> dict[str, Tensor]:
    posterior = model.encode(images).latent_dist
    decoded = model.decode(posterior.sample()).sample
    absolute, squared = F.l1_loss(decoded, images), F.mse_loss(decoded, images)
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return {"loss": absolute + squared + KL_WEIGHT * kl, "l1": absolute, "mse": squared, "kl": kl}


@torch.no_grad()
def _latent_std(vae: AutoencoderKL, dataset: CaptionedImages) -> Tensor:
    indices = torch.arange(0, len(dataset), max(1, len(dataset) // 128))[:128]
    latents: Tensor = vae.encode(dataset.images(indices)).latent_dist.sample()
    return latents.std()
