"""The one loss of pre-training and tuning: denoise under the encoder's word, keep the word close to the domain's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from e4t import ConfigError
from encoder.backbone.backbone import Backbone, Posterior
from encoder.backbone.text_encoders import PromptEmbeddings, TokenizedPrompts
from encoder.model.conditioning import Conditioning
from encoder.model.features import unet_encoder_features
from encoder.model.registry import AnyDomainEncoder


@dataclass(frozen=True)
class NoiseSample:
    """The randomness of a batch, each sample's from its own seed: the same whatever rank or batch it falls into."""

    posterior_noise: Tensor
    """(B, C, h, w) unit noise for the autoencoder's posterior."""
    noise: Tensor
    """(B, C, h, w)."""
    timesteps: Tensor
    """(B,) int64."""
    prompt_choice: Tensor
    """(B,) uniform in [0, 1), for the prompt."""

    def __getitem__(self, rows: slice) -> "NoiseSample":
        return NoiseSample(self.posterior_noise[rows], self.noise[rows], self.timesteps[rows], self.prompt_choice[rows])

    def loss_inputs(self, posterior: Posterior) -> dict[str, Tensor]:
        """What a loss takes of pictures with this posterior: ``latents``, ``noise``, ``timesteps``, on its device."""
        mean, std = posterior
        return {
            "latents": mean + std * self.posterior_noise.to(mean),
            "noise": self.noise.to(mean),
            "timesteps": self.timesteps.to(mean.device),
        }

    @classmethod
    def from_seeds(cls, seeds: Sequence[int], latent_shape: Sequence[int], num_train_timesteps: int) -> "NoiseSample":
        """Draw for samples with these seeds; ``steps`` is the noise schedule's length."""
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
    """A batch's losses, each a scalar."""

    total: Tensor
    denoising: Tensor
    regularization: Tensor
    """lambda * mean over the batch of ||v||^2."""

    def __mul__(self, factor: float) -> "Losses":
        return Losses(self.total * factor, self.denoising * factor, self.regularization * factor)

    def __add__(self, other: "Losses") -> "Losses":
        return Losses(
            self.total + other.total, self.denoising + other.denoising, self.regularization + other.regularization
        )

    def add_penalty(self, penalty: Tensor) -> "Losses":
        """The same with ``penalty`` in the total, too."""
        return Losses(self.total + penalty, self.denoising, self.regularization)

    def detach(self) -> "Losses":
        """Without their graph."""
        return Losses(self.total.detach(), self.denoising.detach(), self.regularization.detach())


def diffusion_target(noise_scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the UNet predicts: the noise (SD1.x) or the velocity (SD2.x; Salimans & Ho, arXiv 2202.00512)."""
    prediction_type = noise_scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return noise_scheduler.get_velocity(latents, noise, timesteps)  # type: ignore[no-any-return]
    raise ConfigError(f"the base predicts {prediction_type!r}; only epsilon and v_prediction are supported")


def embedding_regularization(v: Tensor, weight: float) -> Tensor:
    """Lambda times the batch mean of ||v||^2, v (B, d)."""
    return weight * v.float().pow(2).sum(dim=1).mean()


def denoising_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error; under a mask (B, 1, h, w) of weights, the mean over samples of their weighted means."""
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
    """Two passes (E4T, arXiv 2302.12228): features at (z_t, t, ""), then the prediction under the encoder's word.

    ``latents`` and ``noise`` are (B, C, h, w), ``class_tokens`` (B, K, width), ``timesteps`` (B,). Offsets, if any, are
    those set on the UNet; both passes use them.
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
    """The base's own loss, a scalar, under text states: ``latents`` and ``noise`` (B, C, h, w), ``timesteps`` (B,)."""
    noisy_latents = backbone.noise_scheduler.add_noise(latents, noise, timesteps)
    target = diffusion_target(backbone.noise_scheduler, latents, noise, timesteps)
    return denoising_loss(backbone.unet_forward(noisy_latents, timesteps, prompt_embeddings), target, mask)
