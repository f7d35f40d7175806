"""Classifier-free guidance with a concept token in the prompts."""

import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import PromptEmbeddings, TokenizedPrompts
from encoder.backbone.unet_halves import UNetEncoderOutput, concat, unet_decoder_forward, unet_encoder_forward
from encoder.concepts.concept_tokens import ConceptToken, EncodedToken, LearnedToken
from encoder.config import SampleConfig
from encoder.model.conditioning import Conditioning
from encoder.model.registry import AnyDomainEncoder


class ClassifierFreeGuidance:
    """Compute the unconditional and the conditional prediction for B prompts.

    The domain encoder runs at every timestep. Its UNet features come from the encoder half of the unconditional branch,
    so they need no extra pass; the decoder half runs once, on both branches together.
    """

    def __init__(
        self,
        backbone: Backbone,
        encoder: AnyDomainEncoder,
        conditioning: Conditioning,
        prompts: TokenizedPrompts,
        token: ConceptToken | None,
    ) -> None:
        """Take tokenized prompts and the concept token at their placeholders; None stands for the domain word."""
        self._backbone, self._encoder, self._conditioning, self._prompts = backbone, encoder, conditioning, prompts
        self._unconditional_embeddings = conditioning.unconditional_embeddings().expand(len(prompts.input_ids))
        self._class_tokens = self._expand_to_batch(token.class_tokens) if isinstance(token, EncodedToken) else None
        placeholder_embeddings = (
            self._expand_to_batch(token.embedding[None]) if isinstance(token, LearnedToken) else None
        )
        depends_on_timestep = self._class_tokens is not None and bool(prompts.placeholder_mask.any())
        self._prompt_embeds = (
            None if depends_on_timestep else conditioning.encode_prompts(prompts, placeholder_embeddings)
        )

    def _expand_to_batch(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._backbone.device).expand(len(self._prompts.input_ids), *tensor.shape[1:])

    def __call__(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, ...]:
        """Return the unconditional and the conditional prediction, each (B, C, h, w), at z_t and the scalar t."""
        encoder_output = (
            self._single_pass(latents, timestep, self._prompt_embeds)
            if self._prompt_embeds
            else self._two_pass(latents, timestep)
        )
        return unet_decoder_forward(self._backbone, encoder_output).chunk(2)

    def _single_pass(self, latents: Tensor, timestep: Tensor, prompt_embeds: PromptEmbeddings) -> UNetEncoderOutput:
        """Run the encoder half once on both branches: the prompt embeddings do not depend on the timestep."""
        return unet_encoder_forward(
            self._backbone,
            torch.cat([latents, latents]),
            timestep,
            self._unconditional_embeddings.concat(prompt_embeds),
        )

    def _two_pass(self, latents: Tensor, timestep: Tensor) -> UNetEncoderOutput:
        """Run the encoder half on the unconditional branch, then the domain encoder, then the conditional branch."""
        unconditional = unet_encoder_forward(self._backbone, latents, timestep, self._unconditional_embeddings)
        placeholder_embeddings = self._conditioning.placeholder_embeddings(
            self._encoder(self._class_tokens, self._encoder.unet_features(unconditional))
        )
        prompt_embeds = self._conditioning.encode_prompts(self._prompts, placeholder_embeddings)
        return concat([unconditional, unet_encoder_forward(self._backbone, latents, timestep, prompt_embeds)])


def apply_guidance(unconditional: Tensor, conditional: Tensor, config: SampleConfig) -> Tensor:
    """Combine both predictions by classifier-free guidance (Ho & Salimans, arXiv 2207.12598)."""
    guided_prediction = unconditional + config.guidance_scale * (conditional - unconditional)
    if not config.guidance_rescale:
        return guided_prediction
    # rescale_noise_cfg of diffusers rounds differently, which changes some pixels of the images for a given seed.
    dims = tuple(range(1, guided_prediction.ndim))
    rescaled = guided_prediction * conditional.std(dims, keepdim=True) / guided_prediction.std(dims, keepdim=True)
    return config.guidance_rescale * rescaled + (1 - config.guidance_rescale) * guided_prediction
