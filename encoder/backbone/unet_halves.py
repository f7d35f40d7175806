"""The UNet in two halves: what the encoder half makes is the domain encoder's to see before the decoder half runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import PromptEmbeddings


@dataclass(frozen=True)
class UNetEncoderOutput:
    """What the encoder half has made of (z_t, t, text)."""

    mid_block_output: Tensor
    """(B, C, h, w), the mid block's output."""
    down_block_res_samples: tuple[Tensor, ...]
    """For the decoder half, the deepest last."""
    time_embedding: Tensor
    """(B, e) of the timestep, and of what else the base is told."""
    encoder_hidden_states: Tensor
    """(B, L, d) text states."""
    pooled_features: list[Tensor]
    """Spatial means (B, C_j) of every down block's and the mid block's output."""

    @property
    def all_pooled_features(self) -> list[Tensor]:
        """Spatial means of everything that the decoder half is handed: of each skip in turn, and of the deepest."""
        return [_spatial_mean(feature) for feature in (*self.down_block_res_samples, self.mid_block_output)]


def unet_encoder_forward(
    backbone: Backbone, noisy_latents: Tensor, timesteps: Tensor, prompt_embeddings: PromptEmbeddings
) -> UNetEncoderOutput:
    """Run the encoder half at z_t (B, C, h, w) and t, (B,) or a scalar."""
    unet, sample = backbone.unet, noisy_latents.to(backbone.dtype)
    time_embedding = unet.time_embedding(unet.get_time_embed(sample, timesteps))
    if added_cond_kwargs := backbone.added_cond_kwargs(sample, prompt_embeddings):
        time_embedding = time_embedding + unet.get_aug_embed(
            time_embedding, prompt_embeddings.prompt_embeds, added_cond_kwargs
        )
    sample = unet.conv_in(sample)
    down_block_res_samples, pooled_features = [sample], []
    for block in unet.down_blocks:
        attention_kwargs = (
            {"encoder_hidden_states": prompt_embeddings.prompt_embeds}
            if getattr(block, "has_cross_attention", False)
            else {}
        )
        sample, outputs = block(sample, time_embedding, **attention_kwargs)
        down_block_res_samples += outputs
        pooled_features.append(_spatial_mean(sample))
    sample = unet.mid_block(sample, time_embedding, encoder_hidden_states=prompt_embeddings.prompt_embeds)
    return UNetEncoderOutput(
        sample,
        tuple(down_block_res_samples),
        time_embedding,
        prompt_embeddings.prompt_embeds,
        [*pooled_features, _spatial_mean(sample)],
    )


def unet_decoder_forward(backbone: Backbone, encoder_output: UNetEncoderOutput) -> Tensor:
    """Run the decoder half; what ``Backbone.predict`` gives, (B, C, h, w), float32."""
    unet, sample, down_block_res_samples = (
        backbone.unet,
        encoder_output.mid_block_output,
        encoder_output.down_block_res_samples,
    )
    for block in unet.up_blocks:
        down_block_res_samples, res_samples = (
            down_block_res_samples[: -len(block.resnets)],
            down_block_res_samples[-len(block.resnets) :],
        )
        attention_kwargs = (
            {"encoder_hidden_states": encoder_output.encoder_hidden_states}
            if getattr(block, "has_cross_attention", False)
            else {}
        )
        upsample_size = (
            down_block_res_samples[-1].shape[-2:] if down_block_res_samples else None
        )  # of the next block: sides need not be powers of 2
        sample = block(
            sample, res_samples, encoder_output.time_embedding, upsample_size=upsample_size, **attention_kwargs
        )
    prediction: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(sample)))
    return prediction.float()


def concat(outputs: Sequence[UNetEncoderOutput]) -> UNetEncoderOutput:
    """One batch of several, for a single pass of the decoder half."""
    return UNetEncoderOutput(
        torch.cat([half.mid_block_output for half in outputs]),
        tuple(torch.cat(level) for level in zip(*(half.down_block_res_samples for half in outputs), strict=True)),
        torch.cat([half.time_embedding for half in outputs]),
        torch.cat([half.encoder_hidden_states for half in outputs]),
        [torch.cat(level) for level in zip(*(half.pooled_features for half in outputs), strict=True)],
    )


def _spatial_mean(sample: Tensor) -> Tensor:
    return sample.mean(dim=(2, 3))
