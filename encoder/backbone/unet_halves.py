"""Run the UNet in two halves.

The domain encoder needs the features of the encoder half (down blocks and mid block) before the decoder half (up
blocks) runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import PromptEmbeddings


@dataclass(frozen=True)
class UNetEncoderOutput:
    """Output of the encoder half at (z_t, t, prompt embeddings)."""

    mid_block_output: Tensor
    """Output of the mid block, (B, C, h, w)."""
    down_block_res_samples: tuple[Tensor, ...]
    """Skip connections to the decoder half, the deepest one last."""
    time_embedding: Tensor
    """Embedding (B, e) of the timestep and of SDXL's extra conditions."""
    encoder_hidden_states: Tensor
    """Prompt embeddings, (B, L, d)."""
    pooled_features: list[Tensor]
    """Spatial means (B, C_j) of the output of every down block and of the mid block."""

    @property
    def all_pooled_features(self) -> list[Tensor]:
        """Spatial means (B, C_j) of every skip connection and of the mid block's output."""
        return [_spatial_mean(feature) for feature in (*self.down_block_res_samples, self.mid_block_output)]


def unet_encoder_forward(
    backbone: Backbone, noisy_latents: Tensor, timesteps: Tensor, prompt_embeddings: PromptEmbeddings
) -> UNetEncoderOutput:
    """Run the encoder half on z_t (B, C, h, w) at t, (B,) or a scalar."""
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
    """Run the decoder half. Return the prediction of ``Backbone.unet_forward``, (B, C, h, w), float32."""
    unet, sample = backbone.unet, encoder_output.mid_block_output
    skips = encoder_output.down_block_res_samples
    for block in unet.up_blocks:
        skips, res_samples = skips[: -len(block.resnets)], skips[-len(block.resnets) :]
        attention_kwargs = (
            {"encoder_hidden_states": encoder_output.encoder_hidden_states}
            if getattr(block, "has_cross_attention", False)
            else {}
        )
        # The size of the next block's input: without it sides that are not powers of 2 would not match.
        upsample_size = skips[-1].shape[-2:] if skips else None
        sample = block(
            sample, res_samples, encoder_output.time_embedding, upsample_size=upsample_size, **attention_kwargs
        )
    prediction: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(sample)))
    return prediction.float()


def concat(outputs: Sequence[UNetEncoderOutput]) -> UNetEncoderOutput:
    """Concatenate outputs along the batch, for a single pass of the decoder half."""
    return UNetEncoderOutput(
        torch.cat([output.mid_block_output for output in outputs]),
        tuple(torch.cat(level) for level in zip(*(output.down_block_res_samples for output in outputs), strict=True)),
        torch.cat([output.time_embedding for output in outputs]),
        torch.cat([output.encoder_hidden_states for output in outputs]),
        [torch.cat(level) for level in zip(*(output.pooled_features for output in outputs), strict=True)],
    )


def _spatial_mean(sample: Tensor) -> Tensor:
    return sample.mean(dim=(2, 3))
