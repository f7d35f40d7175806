"""The frozen parts: Stable Diffusion and the CLIP picture tower, from a hub id or a folder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from encoder.errors import ConfigError

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which base model, and in what precision it is held."""

    model: str
    """Hub id or folder that StableDiffusionPipeline opens."""
    revision: str | None = None
    """Hub revision; a release pins the one it was trained on."""
    clip: str | None = None
    """Hub id or folder of the CLIP picture tower; by default the model's own ``clip`` subfolder."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the frozen weights."""


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents."""

    mean: Tensor
    """(B, C, h, w)."""
    std: Tensor
    """(B, C, h, w)."""


class Backbone(nn.Module):
    """Frozen Stable Diffusion and CLIP picture tower; what differs between base models stands here."""

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler,
        clip: CLIPVisionModelWithProjection,
        config: BackboneConfig,
    ) -> None:
        super().__init__()
        self.vae, self.text_encoder, self.unet, self.clip = vae, text_encoder, unet, clip
        self.tokenizer, self.config = tokenizer, config
        self.sampler = scheduler
        self.noise_schedule = DDPMScheduler.from_config(scheduler.config)
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, config: BackboneConfig, device: torch.device | str = "cpu") -> "Backbone":
        """Load every part.

        Raises ConfigError with one line if the id or folder holds no Stable Diffusion, or no CLIP tower is to be found.
        """
        folder = Path(config.model)
        if not folder.exists() and (
            folder.is_absolute() or config.model.count("/") != 1 or config.model.startswith(".")
        ):
            raise ConfigError(f"base model {config.model}: no such folder, and not a hub id of the form owner/name")
        try:
            return cls(
                vae=_part(AutoencoderKL, config, "vae"),
                text_encoder=_part(CLIPTextModel, config, "text_encoder"),
                tokenizer=CLIPTokenizer.from_pretrained(config.model, subfolder="tokenizer", revision=config.revision),
                unet=_part(UNet2DConditionModel, config, "unet"),
                scheduler=DDIMScheduler.from_pretrained(config.model, subfolder="scheduler", revision=config.revision),
                clip=_clip(config),
                config=config,
            ).to(device=device)
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"base model {config.model} cannot be loaded: {reason} Give a Stable Diffusion folder or hub id"
            ) from error

    @property
    def device(self) -> torch.device:
        """Where the frozen weights are."""
        device: torch.device = self.unet.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen weights."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def pixels_per_latent(self) -> int:
        """Downsampling factor of the autoencoder, 8 in every Stable Diffusion."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture with sides of ``resolution`` pixels."""
        side = resolution // self.pixels_per_latent
        return self.unet.config.in_channels, side, side

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures that the UNet was trained on."""
        return int(self.unet.config.sample_size * self.pixels_per_latent)

    @property
    def embedding_width(self) -> int:
        """Width d of a word embedding."""
        return int(self.text_encoder.get_input_embeddings().embedding_dim)

    @torch.no_grad()
    def posterior(self, pixels: Tensor) -> "Posterior":
        """The autoencoder's posterior over scaled latents of pictures (B, 3, H, W) in [-1, 1]."""
        latent = self.vae.encode(pixels.to(self.device, self.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return Posterior(latent.mean * scale, latent.std * scale)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], float32, of scaled latents."""
        pixels: Tensor = self.vae.decode(latents.to(self.dtype) / self.vae.config.scaling_factor).sample
        return pixels.float().clamp(-1, 1)

    def fingerprint(self, part: Literal["vae", "clip"]) -> str:
        """Digest of a part's weights as they are held: equal weights have equal ones, wherever they came from."""
        digest = hashlib.sha256()
        for name, tensor in sorted(getattr(self, part).state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def clip_input(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] as this backbone's CLIP tower expects them."""
        return clip_input(pixels, self.clip.config.image_size).to(self.device, self.clip.dtype)


def clip_input(pixels: Tensor, size: int) -> Tensor:
    """Resize pictures (B, 3, H, W) in [-1, 1] to ``size`` and normalise them as every CLIP expects them."""
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((pixels + 1) / 2 - mean) / std


def _part(kind: type, config: BackboneConfig, name: str) -> nn.Module:
    dtype = getattr(torch, config.dtype)
    return kind.from_pretrained(config.model, subfolder=name, revision=config.revision, dtype=dtype)  # type: ignore[attr-defined, no-any-return]


def _clip(config: BackboneConfig) -> CLIPVisionModelWithProjection:
    dtype = getattr(torch, config.dtype)
    if config.clip is not None:
        return CLIPVisionModelWithProjection.from_pretrained(config.clip, dtype=dtype)
    return CLIPVisionModelWithProjection.from_pretrained(
        config.model, subfolder="clip", revision=config.revision, dtype=dtype
    )
