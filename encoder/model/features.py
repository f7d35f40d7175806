"""Inputs of the domain encoder: class tokens of the image and pooled features of the UNet's encoder half."""

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
    """Frozen encodings of images. They depend on neither timestep nor noise, so they can be cached."""

    posterior: Posterior
    """The VAE's posterior over latents (B, C, h, w)."""
    class_tokens: Tensor
    """Class tokens (B, K, width), or the tokens that another kind of domain encoder uses."""

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors by name for storage. The variance is stored as a logarithm, which survives low precision."""
        mean, std = self.posterior
        return {"mean": mean, "log_variance": 2 * std.log(), "class_tokens": self.class_tokens}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """Create from the tensors that ``to_tensors`` returned."""
        return cls(Posterior(tensors["mean"], (tensors["log_variance"] / 2).exp()), tensors["class_tokens"])


def encode_images(backbone: Backbone, pixels: Tensor) -> EncodedImages:
    """Encode images (B, 3, H, W) in [-1, 1]."""
    return EncodedImages(backbone.posterior(pixels), class_tokens(backbone, pixels))


def class_token_layers(layers: int) -> range:
    """Return the indices of every second layer: 1, 3, 5, ... (E4T, arXiv 2302.12228)."""
    return range(1, layers, 2)


@torch.no_grad()
def class_tokens(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Compute the class tokens (B, K, width) of every second CLIP layer for images (B, 3, H, W) in [-1, 1]."""
    hidden = backbone.image_encoder(backbone.preprocess_clip(pixels), output_hidden_states=True).hidden_states
    return torch.stack([hidden[layer + 1][:, 0] for layer in class_token_layers(len(hidden) - 1)], dim=1)


def feature_channels(unet: UNet2DConditionModel) -> tuple[int, ...]:
    """Return the channels C_j of ``UNetEncoderOutput.pooled_features``, in order."""
    channels: tuple[int, ...] = tuple(unet.config.block_out_channels)
    return (*channels, channels[-1])


@torch.no_grad()
def unet_encoder_features(
    backbone: Backbone, noisy_latents: Tensor, timesteps: Tensor, unconditional_embeddings: PromptEmbeddings
) -> UNetEncoderOutput:
    """Run the UNet's encoder half on z_t (B, C, h, w) with the empty prompt, without gradient.

    ``unconditional_embeddings`` hold a single prompt (B = 1), which is used for the whole batch.
    """
    return unet_encoder_forward(backbone, noisy_latents, timesteps, unconditional_embeddings.expand(len(noisy_latents)))
