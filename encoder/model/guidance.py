"""Predictions under classifier-free guidance, the concept's word among the prompts'."""

import torch
from torch import Tensor

from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import Prompts, TextStates
from encoder.backbone.unet_halves import EncoderHalf, decode, encode, join
from encoder.concepts.concept_tokens import LearnedWord, PictureWord, Word
from encoder.config import SampleConfig
from encoder.model.conditioning import Conditioning
from encoder.model.registry import Encoder


class Branches:
    """The unconditional and the conditional branch of B prompts.

    What the domain encoder says is evaluated anew at every timestep. The unconditional branch's encoder half supplies
    the UNet's maps, so they cost nothing; the decoder half runs once, for both branches.
    """

    def __init__(
        self,
        backbone: Backbone,
        encoder: Encoder,
        conditioning: Conditioning,
        prompts: Prompts,
        word: Word | None,
    ) -> None:
        """Take prompts, and the word that stands at their placeholders."""
        self._backbone, self._encoder, self._conditioning, self._prompts = backbone, encoder, conditioning, prompts
        self._null = conditioning.null_states().expand(len(prompts.ids))
        self._class_tokens = self._each(word.class_tokens) if isinstance(word, PictureWord) else None
        embeddings = self._each(word.embedding[None]) if isinstance(word, LearnedWord) else None
        changes = self._class_tokens is not None and bool(prompts.placeholder.any())
        self._told = None if changes else conditioning.states(prompts, embeddings)

    def _each(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._backbone.device).expand(len(self._prompts.ids), *tensor.shape[1:])

    def __call__(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, ...]:
        """Predictions at z_t (B, C, h, w) and t, a scalar: unconditional and conditional, each (B, C, h, w)."""
        together = self._at_once(latents, timestep, self._told) if self._told else self._in_turn(latents, timestep)
        return decode(self._backbone, together).chunk(2)

    def _at_once(self, latents: Tensor, timestep: Tensor, told: TextStates) -> EncoderHalf:
        return encode(self._backbone, torch.cat([latents, latents]), timestep, self._null.joined(told))

    def _in_turn(self, latents: Tensor, timestep: Tensor) -> EncoderHalf:
        plain = encode(self._backbone, latents, timestep, self._null)
        words = self._conditioning.words(self._encoder(self._class_tokens, self._encoder.maps(plain)))
        told = self._conditioning.states(self._prompts, words)
        return join([plain, encode(self._backbone, latents, timestep, told)])


def guided(unconditional: Tensor, conditional: Tensor, config: SampleConfig) -> Tensor:
    """Both branches' predictions as one (Ho & Salimans, arXiv 2207.12598)."""
    both = unconditional + config.guidance * (conditional - unconditional)
    if not config.guidance_rescale:
        return both
    dims = tuple(range(1, both.ndim))
    rescaled = both * conditional.std(dims, keepdim=True) / both.std(dims, keepdim=True)
    return config.guidance_rescale * rescaled + (1 - config.guidance_rescale) * both
