"""The domain encoder: predict a token embedding from an image and the UNet's features at the current timestep."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.backbone.unet_halves import UNetEncoderOutput
from encoder.config import EncoderInputs
from encoder.model.features import class_token_layers, class_tokens, feature_channels


@dataclass(frozen=True, kw_only=True)
class DomainEncoderConfig:
    """Shape of a domain encoder. The base model determines it, except for ``hidden_width`` and the encoder's inputs."""

    class_tokens: int
    """Number K of class tokens: those of the last K of every second CLIP layer."""
    clip_width: int
    """Hidden width of the CLIP image encoder."""
    feature_channels: tuple[int, ...]
    """Channels C_j of the UNet's pooled features; empty if the encoder does not use them."""
    embedding_width: int
    """Width d of a token embedding, summed over the text encoders."""
    hidden_width: int
    """Width of the mean over the projected class tokens and pooled features. A larger one has more parameters."""

    def __post_init__(self) -> None:
        if self.hidden_width < 1:
            raise ConfigError(
                f"encoder.hidden_width is {self.hidden_width}; give at least 1 (the default is the CLIP width)"
            )
        object.__setattr__(self, "feature_channels", tuple(self.feature_channels))

    @classmethod
    def for_backbone(
        cls, backbone: Backbone, hidden_width: int | None = None, encoder_inputs: EncoderInputs = "full"
    ) -> "DomainEncoderConfig":
        """Return the shape that fits a backbone. ``hidden_width`` is the width of the CLIP encoder unless given."""
        clip = backbone.image_encoder.config
        return cls(
            class_tokens=1 if encoder_inputs == "last_layer_only" else len(class_token_layers(clip.num_hidden_layers)),
            clip_width=clip.hidden_size,
            feature_channels=() if encoder_inputs == "no_unet_features" else feature_channels(backbone.unet),
            embedding_width=backbone.embedding_width,
            hidden_width=hidden_width or clip.hidden_size,
        )


class DomainEncoder(nn.Module):
    """Domain encoder, v = C LeakyReLU(mean over [A_k CLS_k] and [B_j pool(F_j)]) (E4T, arXiv 2302.12228).

    CLS_k are class tokens of CLIP layers, F_j outputs of the UNet's down blocks and mid block. C starts at zero, so
    that before training the concept's embedding is the domain word's.
    """

    def __init__(self, config: DomainEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.clip_proj = nn.ModuleList(
            nn.Linear(config.clip_width, config.hidden_width) for _ in range(config.class_tokens)
        )
        self.unet_proj = nn.ModuleList(nn.Linear(channels, config.hidden_width) for channels in config.feature_channels)
        self.activation = nn.LeakyReLU()
        self.out_proj = nn.Linear(config.hidden_width, config.embedding_width)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def image_features(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """Compute the encoder's input from images (B, 3, H, W) in [-1, 1]: class tokens (B, K, width)."""
        return class_tokens(backbone, pixels)

    def unet_features(self, encoder_output: UNetEncoderOutput) -> list[Tensor]:
        """Select the encoder's input from the UNet: the pooled output [(B, C_j)] of each block."""
        return encoder_output.pooled_features

    def forward(self, class_tokens: Tensor, unet_features: list[Tensor]) -> Tensor:
        """Predict v (B, d) from class tokens (B, K, width) and the UNet's pooled features [(B, C_j)]."""
        dtype = self.out_proj.weight.dtype
        tokens = class_tokens[:, -len(self.clip_proj) :].to(dtype).unbind(1)
        projections = [project(token) for project, token in zip(self.clip_proj, tokens, strict=True)]
        if self.unet_proj:
            projections += [
                project(pooled.to(dtype)) for project, pooled in zip(self.unet_proj, unet_features, strict=True)
            ]
        v: Tensor = self.out_proj(self.activation(torch.stack(projections).mean(dim=0)))
        return v
