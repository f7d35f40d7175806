"""What the domain encoder sees: class tokens of the picture and pooled maps of the UNet's encoder half."""

from dataclasses import dataclass
from typing import Self

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from encoder.backbone.backbone import Backbone, Posterior
from encoder.backbone.text_encoders import PromptEmbeddings
from encoder.backbone.unet_halves import UNetEncoderOutput, unet_encoder_forward


@dataclass(frozen=True)
class EncodedImages:
    """Pictures as the method takes them; none of it depends on timestep or noise, so it can be kept."""

    posterior: Posterior
    """Over their latents (B, C, h, w)."""
    class_tokens: Tensor
    """(B, K, width), or what else the encoder at hand looks at."""

    def to_tensors(self) -> dict[str, Tensor]:
        """By name, to be stored; the variance as a logarithm, which few bits hold well."""
        mean, std = self.posterior
        return {"mean": mean, "log_variance": 2 * std.log(), "class_tokens": self.class_tokens}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """From what ``tensors`` gave."""
        return cls(Posterior(tensors["mean"], (tensors["log_variance"] / 2).exp()), tensors["class_tokens"])


def encode_images(backbone: Backbone, pixels: Tensor) -> EncodedImages:
    """Encode pictures (B, 3, H, W) in [-1, 1]."""
    return EncodedImages(backbone.posterior(pixels), class_tokens(backbone, pixels))


def class_token_layers(layers: int) -> range:
    """Every second layer, counted from 0: 1, 3, 5, ... (E4T, arXiv 2302.12228)."""
    return range(1, layers, 2)


@torch.no_grad()
def class_tokens(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Class tokens (B, K, width) of every second CLIP layer, of pictures (B, 3, H, W) in [-1, 1].

    They depend on neither timestep nor noise: once a picture is enough.
    """
    hidden = backbone.image_encoder(backbone.preprocess_clip(pixels), output_hidden_states=True).hidden_states
    return torch.stack([hidden[layer + 1][:, 0] for layer in class_token_layers(len(hidden) - 1)], dim=1)


def feature_channels(unet: UNet2DConditionModel) -> tuple[int, ...]:
    """Channels C_j of the pooled maps, in their order."""
    channels: tuple[int, ...] = tuple(unet.config.block_out_channels)
    return (*channels, channels[-1])


@torch.no_grad()
def unet_encoder_features(
    backbone: Backbone, noisy_latents: Tensor, timesteps: Tensor, unconditional_embeddings: PromptEmbeddings
) -> UNetEncoderOutput:
    """What the UNet makes of (z_t, t, states of the empty prompt): an encoder takes from it the maps that it looks at.

    Runs the UNet's encoder half only, without gradient. ``null`` is one prompt, for all of ``noisy`` (B, C, h, w).
    """
    return unet_encoder_forward(backbone, noisy_latents, timesteps, unconditional_embeddings.expand(len(noisy_latents)))
