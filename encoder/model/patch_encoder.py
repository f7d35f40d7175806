"""The domain encoder of mkshing/e4t-diffusion, which uses patch tokens of CLIP's last layer."""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.backbone.backbone import Backbone
from encoder.backbone.unet_halves import UNetEncoderOutput


@dataclass(frozen=True, kw_only=True)
class PatchEncoderConfig:
    """Shape of a patch encoder. The base model and the CLIP image encoder determine it."""

    tokens: int
    """Number K of tokens: the class token and every second patch token, 129 for ViT-H/14."""
    clip_width: int
    """Hidden width of the CLIP image encoder."""
    feature_channels: int
    """Channels of all pooled features together, 10,880 for Stable Diffusion 1.x and 2.x."""
    embedding_width: int
    """Width d of a token embedding, summed over the text encoders."""

    @classmethod
    def for_backbone(cls, backbone: Backbone) -> "PatchEncoderConfig":
        """Return the shape that fits a backbone."""
        clip = backbone.image_encoder.config
        return cls(
            tokens=1 + (clip.image_size // clip.patch_size) ** 2 // 2,
            clip_width=clip.hidden_size,
            feature_channels=all_feature_channels(backbone.unet),
            embedding_width=backbone.embedding_width,
        )


class PatchEncoder(nn.Module):
    """Patch encoder, v = C LeakyReLU(mean over i of A_i J [t_i, u]).

    u are two linear layers of all pooled features, concatenated. t_0 is the class token after CLIP's last layer norm;
    t_1, t_2, ... are every second patch token before it. The paper (E4T, arXiv 2302.12228) uses class tokens of every
    second layer instead; this class exists only for imported weights of that project.
    """

    def __init__(self, config: PatchEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.clip_width
        self.unet_proj = nn.Sequential(
            nn.Linear(config.feature_channels, width), nn.LeakyReLU(), nn.Linear(width, width)
        )
        self.fusion_proj = nn.Linear(2 * width, width)
        self.clip_proj = nn.ModuleList(nn.Linear(width, width) for _ in range(config.tokens))
        self.activation = nn.LeakyReLU()
        self.out_proj = nn.Linear(width, config.embedding_width)

    @torch.no_grad()
    def image_features(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """Compute the encoder's input from images (B, 3, H, W) in [-1, 1]: tokens (B, K, width) of the last layer.

        Images are resized as in that project: bicubic with aligned corners, without antialiasing and clamping.
        """
        side = backbone.image_encoder.config.image_size
        resized = F.interpolate(pixels, (side, side), mode="bicubic", align_corners=True)
        outputs = backbone.image_encoder(backbone.preprocess_clip(resized))
        return torch.cat([outputs.pooler_output[:, None], outputs.last_hidden_state[:, 2::2]], dim=1)

    def unet_features(self, encoder_output: UNetEncoderOutput) -> list[Tensor]:
        """Select the encoder's input from the UNet: the pooled skip connections and mid block output [(B, C_j)]."""
        return encoder_output.all_pooled_features

    def forward(self, tokens: Tensor, unet_features: list[Tensor]) -> Tensor:
        """Predict v (B, d) from tokens (B, K, width) and the UNet's pooled features [(B, C_j)]."""
        dtype = self.out_proj.weight.dtype
        projected_features = self.unet_proj(torch.cat(unet_features, dim=1).to(dtype))
        fused_tokens = self.fusion_proj(
            torch.cat([tokens.to(dtype), projected_features[:, None].expand(-1, tokens.shape[1], -1)], dim=2)
        )
        projections = [project(token) for project, token in zip(self.clip_proj, fused_tokens.unbind(1), strict=True)]
        v: Tensor = self.out_proj(self.activation(torch.stack(projections).mean(dim=0)))
        return v


def all_feature_channels(unet: UNet2DConditionModel) -> int:
    """Return the number of channels of all features of ``UNetEncoderOutput.all_pooled_features`` together."""
    layers = [layer for block in unet.down_blocks for layer in (*block.resnets, *(block.downsamplers or ()))]
    mid_channels: int = unet.config.block_out_channels[-1]
    return int(unet.conv_in.out_channels) + sum(int(layer.out_channels) for layer in layers) + mid_channels
