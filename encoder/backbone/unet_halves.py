"""The UNet in two halves: what the encoder half makes is the domain encoder's to see before the decoder half runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import TextStates


@dataclass(frozen=True)
class EncoderHalf:
    """What the encoder half has made of (z_t, t, text)."""

    deepest: Tensor
    """(B, C, h, w), the mid block's output."""
    skips: tuple[Tensor, ...]
    """For the decoder half, the deepest last."""
    embedding: Tensor
    """(B, e) of the timestep, and of what else the base is told."""
    states: Tensor
    """(B, L, d) text states."""
    maps: list[Tensor]
    """Spatial means (B, C_j) of every down block's and the mid block's output."""

    @property
    def every_map(self) -> list[Tensor]:
        """Spatial means of everything that the decoder half is handed: of each skip in turn, and of the deepest."""
        return [_pooled(level) for level in (*self.skips, self.deepest)]


def encode(backbone: Backbone, noisy: Tensor, timesteps: Tensor, text: TextStates) -> EncoderHalf:
    """Run the encoder half at z_t (B, C, h, w) and t, (B,) or a scalar."""
    unet, sample = backbone.unet, noisy.to(backbone.dtype)
    embedding = unet.time_embedding(unet.get_time_embed(sample, timesteps))
    if added := backbone.added_conditions(sample, text):
        embedding = embedding + unet.get_aug_embed(embedding, text.states, added)
    sample = unet.conv_in(sample)
    skips, maps = [sample], []
    for block in unet.down_blocks:
        attends = {"encoder_hidden_states": text.states} if getattr(block, "has_cross_attention", False) else {}
        sample, outputs = block(sample, embedding, **attends)
        skips += outputs
        maps.append(_pooled(sample))
    sample = unet.mid_block(sample, embedding, encoder_hidden_states=text.states)
    return EncoderHalf(sample, tuple(skips), embedding, text.states, [*maps, _pooled(sample)])


def decode(backbone: Backbone, half: EncoderHalf) -> Tensor:
    """Run the decoder half; what ``Backbone.predict`` gives, (B, C, h, w), float32."""
    unet, sample, skips = backbone.unet, half.deepest, half.skips
    for block in unet.up_blocks:
        skips, own = skips[: -len(block.resnets)], skips[-len(block.resnets) :]
        attends = {"encoder_hidden_states": half.states} if getattr(block, "has_cross_attention", False) else {}
        size = skips[-1].shape[-2:] if skips else None  # of the next block: sides need not be powers of 2
        sample = block(sample, own, half.embedding, upsample_size=size, **attends)
    prediction: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(sample)))
    return prediction.float()


def join(halves: Sequence[EncoderHalf]) -> EncoderHalf:
    """One batch of several, for a single pass of the decoder half."""
    return EncoderHalf(
        torch.cat([half.deepest for half in halves]),
        tuple(torch.cat(level) for level in zip(*(half.skips for half in halves), strict=True)),
        torch.cat([half.embedding for half in halves]),
        torch.cat([half.states for half in halves]),
        [torch.cat(level) for level in zip(*(half.maps for half in halves), strict=True)],
    )


def _pooled(sample: Tensor) -> Tensor:
    return sample.mean(dim=(2, 3))
