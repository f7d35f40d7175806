"""The loss of pretraining and tuning: denoising with the encoder's token, plus a regularization of that token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone, Posterior
from encoder.backbone.text_encoders import PromptEmbeddings, TokenizedPrompts
from encoder.model.conditioning import Conditioning
from encoder.model.features import unet_encoder_features
from encoder.model.registry import AnyDomainEncoder


@dataclass(frozen=True)
class NoiseSample:
    """Random numbers of a batch. Each sample has its own seed, so they do not depend on the rank or the batch size."""

    posterior_noise: Tensor
    """Standard normal noise (B, C, h, w) to sample from the VAE's posterior."""
    noise: Tensor
    """Standard normal noise (B, C, h, w) of the diffusion process."""
    timesteps: Tensor
    """Timesteps (B,), int64."""
    prompt_choice: Tensor
    """Numbers (B,) uniform in [0, 1) that choose the prompts."""

    def __getitem__(self, rows: slice) -> "NoiseSample":
        return NoiseSample(self.posterior_noise[rows], self.noise[rows], self.timesteps[rows], self.prompt_choice[rows])

    def loss_inputs(self, posterior: Posterior) -> dict[str, Tensor]:
        """Sample latents from a posterior. Return the arguments ``latents``, ``noise`` and ``timesteps`` of a loss."""
        mean, std = posterior
        return {
            "latents": mean + std * self.posterior_noise.to(mean),
            "noise": self.noise.to(mean),
            "timesteps": self.timesteps.to(mean.device),
        }

    @classmethod
    def from_seeds(cls, seeds: Sequence[int], latent_shape: Sequence[int], num_train_timesteps: int) -> "NoiseSample":
        """Sample with one seed per row; timesteps are below ``num_train_timesteps``."""
        rows = [_sample_noise(seed, latent_shape, num_train_timesteps) for seed in seeds]
        posterior_noise, noise, timesteps, prompt_choice = (torch.stack(column) for column in zip(*rows, strict=True))
        return cls(posterior_noise, noise, timesteps, prompt_choice)


def _sample_noise(
    seed: int, latent_shape: Sequence[int], num_train_timesteps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    posterior_noise, noise = (torch.randn(*latent_shape, generator=generator) for _ in range(2))
    timestep = torch.randint(0, num_train_timesteps, (), generator=generator)
    return posterior_noise, noise, timestep, torch.rand((), generator=generator)


@dataclass(frozen=True)
class Losses:
    """Losses of a batch, each a scalar."""

    total: Tensor
    """Sum of all terms; the one to differentiate."""
    denoising: Tensor
    """Mean squared error of the UNet's prediction."""
    regularization: Tensor
    """Weighted mean of ||v||^2 over the batch."""

    def __mul__(self, factor: float) -> "Losses":
        return Losses(self.total * factor, self.denoising * factor, self.regularization * factor)

    def __add__(self, other: "Losses") -> "Losses":
        return Losses(
            self.total + other.total, self.denoising + other.denoising, self.regularization + other.regularization
        )

    def add_penalty(self, penalty: Tensor) -> "Losses":
        """Add ``penalty`` to the total."""
        return Losses(self.total + penalty, self.denoising, self.regularization)

    def detach(self) -> "Losses":
        """Detach every loss from the graph."""
        return Losses(self.total.detach(), self.denoising.detach(), self.regularization.detach())


def diffusion_target(noise_scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the UNet predicts: the noise (SD1.x) or the velocity (SD2.x; Salimans & Ho, arXiv 2202.00512)."""
    prediction_type = noise_scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return noise_scheduler.get_velocity(latents, noise, timesteps)  # type: ignore[no-any-return]
    raise ConfigError(
        f"the base model has prediction_type {prediction_type!r}; only epsilon and v_prediction are supported"
    )


def embedding_regularization(v: Tensor, weight: float) -> Tensor:
    """Return ``weight`` times the batch mean of ||v||^2, v (B, d)."""
    return weight * v.float().pow(2).sum(dim=1).mean()


def denoising_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared error; with a mask (B, 1, h, w) of weights, the batch mean of the weighted means."""
    error = (prediction.float() - target.float()).pow(2)
    if mask is None:
        return error.mean()
    return ((error * mask).mean(dim=(1, 2, 3)) / mask.mean(dim=(1, 2, 3)).clamp_min(1e-8)).mean()


def e4t_loss(
    backbone: Backbone,
    encoder: AnyDomainEncoder,
    conditioning: Conditioning,
    *,
    latents: Tensor,
    class_tokens: Tensor,
    prompts: TokenizedPrompts,
    noise: Tensor,
    timesteps: Tensor,
    regularization_weight: float,
    mask: Tensor | None = None,
) -> Losses:
    """Compute the loss of the method in two passes (E4T, arXiv 2302.12228).

    The first pass computes UNet features at (z_t, t, empty prompt), from which the encoder predicts v; the second pass
    denoises with v at the prompts' placeholder. Both passes use the offsets that are applied to the UNet. ``latents``
    and ``noise`` are (B, C, h, w), ``class_tokens`` (B, K, width), ``timesteps`` (B,), ``mask`` (B, 1, h, w).
    """
    noisy_latents = backbone.noise_scheduler.add_noise(latents, noise, timesteps)
    unet_features = encoder.unet_features(
        unet_encoder_features(backbone, noisy_latents, timesteps, conditioning.unconditional_embeddings())
    )
    v = encoder(class_tokens, unet_features)
    prompt_embeddings = conditioning.encode_prompts(prompts, conditioning.placeholder_embeddings(v))
    denoising = diffusion_loss(
        backbone, prompt_embeddings, latents=latents, noise=noise, timesteps=timesteps, mask=mask
    )
    regularization = embedding_regularization(v, regularization_weight)
    return Losses(denoising + regularization, denoising, regularization)


def diffusion_loss(
    backbone: Backbone,
    prompt_embeddings: PromptEmbeddings,
    *,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute the base model's denoising loss, a scalar, under prompt embeddings.

    ``latents`` and ``noise`` are (B, C, h, w), ``timesteps`` (B,), ``mask`` (B, 1, h, w).
    """
    noisy_latents = backbone.noise_scheduler.add_noise(latents, noise, timesteps)
    target = diffusion_target(backbone.noise_scheduler, latents, noise, timesteps)
    return denoising_loss(backbone.unet_forward(noisy_latents, timesteps, prompt_embeddings), target, mask)
