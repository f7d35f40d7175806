"""The frozen base model: Stable Diffusion and a CLIP image encoder."""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from encoder.backbone.loading import load_parts
from encoder.backbone.text_encoders import PromptEmbeddings, TextEncoders
from encoder.config import BackboneConfig
from encoder.hub_client import resolved_revision

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


class Posterior(NamedTuple):
    """Diagonal Gaussian over latents, as the VAE encoder predicts it."""

    mean: Tensor
    """Mean, (B, C, h, w)."""
    std: Tensor
    """Standard deviation, (B, C, h, w)."""


class Backbone(nn.Module):
    """Frozen Stable Diffusion and CLIP image encoder.

    This class hides the differences between base models: text conditioning, prediction target, scheduler, latent shape.
    """

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        text_encoders: TextEncoders,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler,
        image_encoder: CLIPVisionModel,
        config: BackboneConfig,
    ) -> None:
        super().__init__()
        self.vae, self.text_encoders, self.unet, self.image_encoder = vae, text_encoders, unet, image_encoder
        self.scheduler, self.config = scheduler, config
        self.noise_scheduler = DDPMScheduler.from_config(scheduler.config)
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, config: BackboneConfig, device: torch.device | str = "cpu") -> "Backbone":
        """Load every component from the hub or a folder.

        Raises ConfigError if the id or folder holds no Stable Diffusion model, or if there is no CLIP image encoder.
        """
        return cls(**load_parts(config), config=config).to(device=device)

    @property
    def device(self) -> torch.device:
        """Device of the UNet."""
        device: torch.device = self.unet.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the UNet's weights."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def vae_scale_factor(self) -> int:
        """Downsampling factor of the VAE, 8 in every Stable Diffusion model."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return the shape (C, h, w) of the latents of a square image with ``resolution`` pixels per side."""
        side = resolution // self.vae_scale_factor
        return self.unet.config.in_channels, side, side

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that the UNet was trained on."""
        return int(self.unet.config.sample_size * self.vae_scale_factor)

    @property
    def embedding_width(self) -> int:
        """Width d of a token embedding, summed over the text encoders."""
        return sum(self.text_encoders.widths)

    def move_encoders(self, device: torch.device | str) -> None:
        """Move the VAE and the image encoder, for example to the CPU while training reads cached features."""
        for encoder in (self.vae, self.image_encoder):
            if encoder.device != torch.device(device):
                encoder.to(device)

    @torch.no_grad()
    def posterior(self, pixels: Tensor) -> "Posterior":
        """Encode images (B, 3, H, W) in [-1, 1] into the posterior over scaled latents, float32."""
        latent = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return Posterior(latent.mean.float() * scale, latent.std.float() * scale)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (B, C, h, w) into images (B, 3, H, W) in [-1, 1], float32."""
        pixels: Tensor = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return pixels.float().clamp(-1, 1)

    def unet_forward(self, noisy_latents: Tensor, timesteps: Tensor, prompt_embeddings: PromptEmbeddings) -> Tensor:
        """Run the UNet on z_t (B, C, h, w) at t, (B,) or a scalar. Return its prediction (B, C, h, w), float32."""
        noisy_latents = noisy_latents.to(self.dtype)
        added_cond_kwargs = self.added_cond_kwargs(noisy_latents, prompt_embeddings)
        prediction: Tensor = self.unet(
            noisy_latents, timesteps, prompt_embeddings.prompt_embeds, added_cond_kwargs=added_cond_kwargs
        ).sample
        return prediction.float()

    def added_cond_kwargs(self, noisy_latents: Tensor, prompt_embeddings: PromptEmbeddings) -> dict[str, Tensor] | None:
        """Return SDXL's extra conditions, pooled prompt embeddings and sizes in pixels; None for other base models.

        The sizes are height and width of the original image, top and left of the crop, and height and width of the
        target (SDXL, arXiv 2307.01952, section 2.2). A prepared image counts as its own, uncropped original.
        """
        if prompt_embeddings.pooled_prompt_embeds is None:
            return None
        height, width = (side * self.vae_scale_factor for side in noisy_latents.shape[-2:])
        time_ids = torch.tensor([height, width, 0, 0, height, width], device=noisy_latents.device, dtype=self.dtype)
        return {
            "text_embeds": prompt_embeddings.pooled_prompt_embeds,
            "time_ids": time_ids.expand(len(noisy_latents), -1),
        }

    def fingerprint(self) -> dict[str, str]:
        """Identify the base model: ``model``, ``revision`` (empty for a folder) and a digest of all ``weights``."""
        # The order is part of the digest, which provenance files and run folders hold.
        parts = "".join(self.part_digest(part) for part in ("vae", "text_encoders", "unet", "image_encoder"))
        revision = resolved_revision(self.config.model, self.config.revision)
        return {
            "model": self.config.model,
            "revision": revision or "",
            "weights": hashlib.sha256(parts.encode()).hexdigest(),
        }

    def part_digest(self, part: Literal["vae", "text_encoders", "unet", "image_encoder"]) -> str:
        """Return a digest of a component's weights in their present precision, wherever they were loaded from."""
        digest = hashlib.sha256()
        for name, tensor in sorted(getattr(self, part).state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def preprocess_clip(self, pixels: Tensor) -> Tensor:
        """Resize and normalize images (B, 3, H, W) in [-1, 1] as this model's CLIP image encoder expects them."""
        return preprocess_clip(pixels, self.image_encoder.config.image_size).to(self.device, self.image_encoder.dtype)


def preprocess_clip(pixels: Tensor, size: int) -> Tensor:
    """Resize images (B, 3, H, W) in [-1, 1] to ``size`` pixels per side and normalize them with CLIP's mean and std."""
    return resize_and_normalize(pixels, size, CLIP_MEAN, CLIP_STD)


def resize_and_normalize(pixels: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resize images (B, 3, H, W) in [-1, 1] to ``size`` pixels per side and normalize their channels, in [0, 1]."""
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
    channel_mean, channel_std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (mean, std))
    return ((pixels + 1) / 2 - channel_mean) / channel_std
