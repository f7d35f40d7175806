"""Stable Diffusion's text side: one text encoder (SD1.x, SD2.x), or two side by side (SDXL)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts, for each of E text encoders."""

    ids: Tensor
    """(B, E, L); the placeholder already replaced by the domain word."""
    placeholder: Tensor
    """(B, E, L) bool: where the concept stands."""

    def __getitem__(self, index: slice | Tensor) -> "Prompts":
        return Prompts(self.ids[index], self.placeholder[index])


@dataclass(frozen=True)
class TextStates:
    """What the UNet is told of prompts."""

    states: Tensor
    """(B, L, d); with two text encoders d is the sum of their widths."""
    pooled: Tensor | None = None
    """(B, p), of a base with two text encoders."""

    def expand(self, size: int) -> "TextStates":
        """The same prompt ``size`` times, from B = 1."""
        pooled = None if self.pooled is None else self.pooled.expand(size, -1)
        return TextStates(self.states.expand(size, -1, -1), pooled)

    def joined(self, other: "TextStates") -> "TextStates":
        """One batch of both."""
        pooled = None if self.pooled is None or other.pooled is None else torch.cat([self.pooled, other.pooled])
        return TextStates(torch.cat([self.states, other.states]), pooled)

    def to(self, device: torch.device) -> "TextStates":
        """The same on another device."""
        return TextStates(self.states.to(device), None if self.pooled is None else self.pooled.to(device))

    def zeroed(self) -> "TextStates":
        """Zeros of the same shape."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return TextStates(torch.zeros_like(self.states), pooled)


class TextEncoders(nn.Module):
    """The tokenizers and text encoders of a base."""

    def __init__(
        self,
        encoders: Sequence[CLIPTextModel | CLIPTextModelWithProjection],
        tokenizers: Sequence[CLIPTokenizer],
        *,
        null_is_zero: bool = False,
    ) -> None:
        """Take one encoder and tokenizer, or two; ``null_is_zero`` if the base takes zeros for the empty prompt."""
        super().__init__()
        self.encoders: Sequence[Any] = nn.ModuleList(encoders)  # type: ignore[assignment]
        self.tokenizers, self.null_is_zero = list(tokenizers), null_is_zero

    @property
    def device(self) -> torch.device:
        """Where the encoders are."""
        device: torch.device = self.encoders[0].device
        return device

    @property
    def widths(self) -> list[int]:
        """Width of each encoder's word embeddings."""
        return [int(encoder.get_input_embeddings().embedding_dim) for encoder in self.encoders]

    def embedding(self, token_ids: Sequence[int]) -> Tensor:
        """Word embedding (d,) of one token of each encoder's own vocabulary, float32."""
        pairs = zip(self.encoders, token_ids, strict=True)
        return torch.cat([encoder.get_input_embeddings().weight[token].float() for encoder, token in pairs])

    def forward(self, prompts: Prompts, words: Tensor | None = None) -> TextStates:
        """States of prompts; ``words`` (B, sum of widths) are embeddings to stand at the placeholder.

        SD1.x and SD2.x take the last layer's states; SDXL takes those of each encoder's last but one, and the second
        one's pooled state (Podell et al., arXiv 2307.01952).
        """
        parts: Sequence[Tensor | None] = [None] * len(self.encoders)
        if words is not None:
            parts = words.split(self.widths, dim=1)
        outputs = [
            _run(encoder, prompts.ids[:, place], prompts.placeholder[:, place], part)
            for place, (encoder, part) in enumerate(zip(self.encoders, parts, strict=True))
        ]
        if len(outputs) == 1:
            return TextStates(outputs[0].last_hidden_state)
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return TextStates(states, outputs[-1].text_embeds)


def _run(encoder: CLIPTextModel, ids: Tensor, placeholder: Tensor, words: Tensor | None) -> Any:  # noqa: ANN401
    """Transformers' own output, with the states after every layer."""
    ids, placeholder = ids.to(encoder.device), placeholder.to(encoder.device)
    if words is None:
        return encoder(ids, output_hidden_states=True)

    def put_words(_module: nn.Module, _args: tuple[object, ...], embeddings: Tensor) -> Tensor:
        return torch.where(placeholder[..., None], words.to(embeddings.dtype)[:, None], embeddings)

    hook = encoder.get_input_embeddings().register_forward_hook(put_words)
    try:
        return encoder(ids, output_hidden_states=True)
    finally:
        hook.remove()
