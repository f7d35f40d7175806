"""The one loss of pre-training and tuning: denoise under the encoder's word, keep the word close to the domain's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from encoder.backbone.backbone import Backbone, Posterior
from encoder.backbone.text_encoders import Prompts, TextStates
from encoder.errors import ConfigError
from encoder.model.conditioning import Conditioning
from encoder.model.features import first_pass
from encoder.model.registry import Encoder


@dataclass(frozen=True)
class Draw:
    """The randomness of a batch, each sample's from its own seed: the same whatever rank or batch it falls into."""

    posterior: Tensor
    """(B, C, h, w) unit noise for the autoencoder's posterior."""
    noise: Tensor
    """(B, C, h, w)."""
    timesteps: Tensor
    """(B,) int64."""
    choice: Tensor
    """(B,) uniform in [0, 1), for the prompt."""

    def __getitem__(self, rows: slice) -> "Draw":
        return Draw(self.posterior[rows], self.noise[rows], self.timesteps[rows], self.choice[rows])

    def noised(self, posterior: Posterior) -> dict[str, Tensor]:
        """What a loss takes of pictures with this posterior: ``latents``, ``noise``, ``timesteps``, on its device."""
        mean, std = posterior
        return {
            "latents": mean + std * self.posterior.to(mean),
            "noise": self.noise.to(mean),
            "timesteps": self.timesteps.to(mean.device),
        }

    @classmethod
    def for_samples(cls, seeds: Sequence[int], latent_shape: Sequence[int], steps: int) -> "Draw":
        """Draw for samples with these seeds; ``steps`` is the noise schedule's length."""
        rows = [_draw_one(seed, latent_shape, steps) for seed in seeds]
        posterior, noise, timesteps, choice = (torch.stack(column) for column in zip(*rows, strict=True))
        return cls(posterior, noise, timesteps, choice)


def _draw_one(seed: int, latent_shape: Sequence[int], steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    posterior, noise = (torch.randn(*latent_shape, generator=generator) for _ in range(2))
    timestep = torch.randint(0, steps, (), generator=generator)
    return posterior, noise, timestep, torch.rand((), generator=generator)


@dataclass(frozen=True)
class Losses:
    """A batch's losses, each a scalar."""

    total: Tensor
    denoising: Tensor
    regulariser: Tensor
    """lambda * mean over the batch of ||v||^2."""

    def __mul__(self, share: float) -> "Losses":
        return Losses(self.total * share, self.denoising * share, self.regulariser * share)

    def __add__(self, other: "Losses") -> "Losses":
        return Losses(self.total + other.total, self.denoising + other.denoising, self.regulariser + other.regulariser)

    def with_penalty(self, penalty: Tensor) -> "Losses":
        """The same with ``penalty`` in the total, too."""
        return Losses(self.total + penalty, self.denoising, self.regulariser)

    def detach(self) -> "Losses":
        """Without their graph."""
        return Losses(self.total.detach(), self.denoising.detach(), self.regulariser.detach())


def target(schedule: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the UNet predicts: the noise (SD1.x) or the velocity (SD2.x; Salimans & Ho, arXiv 2202.00512)."""
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return schedule.get_velocity(latents, noise, timesteps)  # type: ignore[no-any-return]
    raise ConfigError(f"the base predicts {kind!r}; only epsilon and v_prediction are supported")


def regularise(v: Tensor, weight: float) -> Tensor:
    """Lambda times the batch mean of ||v||^2, v (B, d)."""
    return weight * v.float().pow(2).sum(dim=1).mean()


def denoising_loss(prediction: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error; under a mask (B, 1, h, w) of weights, the mean over samples of their weighted means."""
    error = (prediction.float() - wanted.float()).pow(2)
    if mask is None:
        return error.mean()
    return ((error * mask).mean(dim=(1, 2, 3)) / mask.mean(dim=(1, 2, 3)).clamp_min(1e-8)).mean()


def domain_tuning_loss(
    backbone: Backbone,
    encoder: Encoder,
    conditioning: Conditioning,
    *,
    latents: Tensor,
    class_tokens: Tensor,
    prompts: Prompts,
    noise: Tensor,
    timesteps: Tensor,
    regulariser: float,
    mask: Tensor | None = None,
) -> Losses:
    """Two passes (E4T, arXiv 2302.12228): features at (z_t, t, ""), then the prediction under the encoder's word.

    ``latents`` and ``noise`` are (B, C, h, w), ``class_tokens`` (B, K, width), ``timesteps`` (B,). Offsets, if any, are
    those set on the UNet; both passes use them.
    """
    noisy = backbone.noise_schedule.add_noise(latents, noise, timesteps)
    maps = encoder.maps(first_pass(backbone, noisy, timesteps, conditioning.null_states()))
    v = encoder(class_tokens, maps)
    states = conditioning.states(prompts, conditioning.words(v))
    denoising = diffusion_loss(backbone, states, latents=latents, noise=noise, timesteps=timesteps, mask=mask)
    penalty = regularise(v, regulariser)
    return Losses(denoising + penalty, denoising, penalty)


def diffusion_loss(
    backbone: Backbone,
    text: TextStates,
    *,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """The base's own loss, a scalar, under text states: ``latents`` and ``noise`` (B, C, h, w), ``timesteps`` (B,)."""
    noisy = backbone.noise_schedule.add_noise(latents, noise, timesteps)
    wanted = target(backbone.noise_schedule, latents, noise, timesteps)
    return denoising_loss(backbone.predict(noisy, timesteps, text), wanted, mask)
