"""The domain encoder of mkshing/e4t-diffusion, as it is: it looks at patches of CLIP's last layer, not at layers."""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.backbone.backbone import Backbone
from encoder.backbone.unet_halves import EncoderHalf


@dataclass(frozen=True, kw_only=True)
class PatchEncoderConfig:
    """Shape of such an encoder, all of it fixed by the base model and the picture tower."""

    tokens: int
    """K: the class token and every second patch, 129 of ViT-H/14."""
    clip_width: int
    map_channels: int
    """Of all pooled maps together, 10,880 of Stable Diffusion 1.x and 2.x."""
    embedding_width: int
    """d of the text encoder."""

    @classmethod
    def for_backbone(cls, backbone: Backbone) -> "PatchEncoderConfig":
        """The shape that fits a backbone."""
        clip = backbone.clip.config
        return cls(
            tokens=1 + (clip.image_size // clip.patch_size) ** 2 // 2,
            clip_width=clip.hidden_size,
            map_channels=every_map_channels(backbone.unet),
            embedding_width=backbone.embedding_width,
        )


class PatchEncoder(nn.Module):
    """v = C LeakyReLU(mean over i of A_i J [t_i, u]), u = two linears of all pooled maps, joined.

    t_0 is the class token after CLIP's last normalisation, t_1, t_2, ... are every second patch token before it. The
    method (arXiv 2302.12228) has class tokens of every second layer in their place; this is kept since weights that
    were trained on it, and only these, need it.
    """

    def __init__(self, config: PatchEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.clip_width
        self.from_unet = nn.Sequential(nn.Linear(config.map_channels, width), nn.LeakyReLU(), nn.Linear(width, width))
        self.joined = nn.Linear(2 * width, width)
        self.from_clip = nn.ModuleList(nn.Linear(width, width) for _ in range(config.tokens))
        self.activation = nn.LeakyReLU()
        self.to_embedding = nn.Linear(width, config.embedding_width)

    @torch.no_grad()
    def look(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """What it sees of pictures (B, 3, H, W) in [-1, 1]: tokens (B, K, width) of the last layer.

        Pictures are resized as in that project: bicubic, corners on corners, neither smoothed nor clamped.
        """
        side = backbone.clip.config.image_size
        resized = F.interpolate(pixels, (side, side), mode="bicubic", align_corners=True)
        seen = backbone.clip(backbone.clip_input(resized))
        return torch.cat([seen.pooler_output[:, None], seen.last_hidden_state[:, 2::2]], dim=1)

    def maps(self, half: EncoderHalf) -> list[Tensor]:
        """What it sees of the UNet: the pooled output [(B, C_j)] of every layer that the decoder half is handed."""
        return half.every_map

    def forward(self, tokens: Tensor, maps: list[Tensor]) -> Tensor:
        """Residual v (B, d) from tokens (B, K, width) and the UNet's pooled maps [(B, C_j)]."""
        dtype = self.to_embedding.weight.dtype
        unet = self.from_unet(torch.cat(maps, dim=1).to(dtype))
        joined = self.joined(torch.cat([tokens.to(dtype), unet[:, None].expand(-1, tokens.shape[1], -1)], dim=2))
        members = [project(token) for project, token in zip(self.from_clip, joined.unbind(1), strict=True)]
        v: Tensor = self.to_embedding(self.activation(torch.stack(members).mean(dim=0)))
        return v


def every_map_channels(unet: UNet2DConditionModel) -> int:
    """Channels of ``EncoderHalf.every_map`` together."""
    layers = [layer for block in unet.down_blocks for layer in (*block.resnets, *(block.downsamplers or ()))]
    deepest: int = unet.config.block_out_channels[-1]
    return int(unet.conv_in.out_channels) + sum(int(layer.out_channels) for layer in layers) + deepest
