"""The text encoders of a base model: one (SD1.x, SD2.x) or two side by side (SDXL)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


@dataclass(frozen=True)
class TokenizedPrompts:
    """Prompts tokenized for each of E text encoders."""

    input_ids: Tensor
    """Token ids (B, E, L); the domain word's token stands at the placeholder."""
    placeholder_mask: Tensor
    """True at the placeholder, (B, E, L) bool."""

    def __getitem__(self, index: slice | Tensor) -> "TokenizedPrompts":
        return TokenizedPrompts(self.input_ids[index], self.placeholder_mask[index])


@dataclass(frozen=True)
class PromptEmbeddings:
    """Text conditions of the UNet."""

    prompt_embeds: Tensor
    """Hidden states (B, L, d); d is the sum of the widths of the text encoders."""
    pooled_prompt_embeds: Tensor | None = None
    """Pooled output (B, p) of the second text encoder; None if there is only one."""

    def expand(self, size: int) -> "PromptEmbeddings":
        """Repeat a single prompt (B = 1) ``size`` times."""
        pooled_prompt_embeds = None if self.pooled_prompt_embeds is None else self.pooled_prompt_embeds.expand(size, -1)
        return PromptEmbeddings(self.prompt_embeds.expand(size, -1, -1), pooled_prompt_embeds)

    def concat(self, other: "PromptEmbeddings") -> "PromptEmbeddings":
        """Concatenate two batches."""
        pooled_prompt_embeds = (
            None
            if self.pooled_prompt_embeds is None or other.pooled_prompt_embeds is None
            else torch.cat([self.pooled_prompt_embeds, other.pooled_prompt_embeds])
        )
        return PromptEmbeddings(torch.cat([self.prompt_embeds, other.prompt_embeds]), pooled_prompt_embeds)

    def to(self, device: torch.device) -> "PromptEmbeddings":
        """Copy to a device."""
        return PromptEmbeddings(
            self.prompt_embeds.to(device),
            None if self.pooled_prompt_embeds is None else self.pooled_prompt_embeds.to(device),
        )

    def zeros_like(self) -> "PromptEmbeddings":
        """Return zeros of the same shapes."""
        pooled_prompt_embeds = (
            None if self.pooled_prompt_embeds is None else torch.zeros_like(self.pooled_prompt_embeds)
        )
        return PromptEmbeddings(torch.zeros_like(self.prompt_embeds), pooled_prompt_embeds)


class TextEncoders(nn.Module):
    """The tokenizers and text encoders of a base model."""

    def __init__(
        self,
        encoders: Sequence[CLIPTextModel | CLIPTextModelWithProjection],
        tokenizers: Sequence[CLIPTokenizer],
        *,
        force_zeros_for_empty_prompt: bool = False,
    ) -> None:
        """Take one or two encoders with their tokenizers.

        ``force_zeros_for_empty_prompt`` is set if the base model was trained with zeros for the empty prompt (SDXL).
        """
        super().__init__()
        self.encoders: Sequence[Any] = nn.ModuleList(encoders)  # type: ignore[assignment]
        self.tokenizers, self.force_zeros_for_empty_prompt = list(tokenizers), force_zeros_for_empty_prompt

    @property
    def device(self) -> torch.device:
        """Device of the encoders."""
        device: torch.device = self.encoders[0].device
        return device

    @property
    def widths(self) -> list[int]:
        """Width of each encoder's token embeddings."""
        return [int(encoder.get_input_embeddings().embedding_dim) for encoder in self.encoders]

    def token_embedding(self, token_ids: Sequence[int]) -> Tensor:
        """Concatenate the embeddings of one token per encoder, ids of its own vocabulary. Return (d,), float32."""
        pairs = zip(self.encoders, token_ids, strict=True)
        return torch.cat([encoder.get_input_embeddings().weight[token].float() for encoder, token in pairs])

    def forward(self, prompts: TokenizedPrompts, placeholder_embeddings: Tensor | None = None) -> PromptEmbeddings:
        """Encode prompts, with ``placeholder_embeddings`` (B, sum of widths) at the placeholder if given.

        SD1.x and SD2.x use the hidden states of the last layer. SDXL uses those of the last layer but one of each
        encoder, and the pooled output of the second (Podell et al., arXiv 2307.01952).
        """
        parts: Sequence[Tensor | None] = [None] * len(self.encoders)
        if placeholder_embeddings is not None:
            parts = placeholder_embeddings.split(self.widths, dim=1)
        outputs = [
            _encode(encoder, prompts.input_ids[:, index], prompts.placeholder_mask[:, index], part)
            for index, (encoder, part) in enumerate(zip(self.encoders, parts, strict=True))
        ]
        if len(outputs) == 1:
            return PromptEmbeddings(outputs[0].last_hidden_state)
        prompt_embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return PromptEmbeddings(prompt_embeds, outputs[-1].text_embeds)


def _encode(
    encoder: CLIPTextModel, input_ids: Tensor, placeholder_mask: Tensor, placeholder_embeddings: Tensor | None
) -> Any:  # noqa: ANN401
    """Run one text encoder; return the output of transformers with the hidden states of every layer."""
    input_ids, placeholder_mask = input_ids.to(encoder.device), placeholder_mask.to(encoder.device)
    if placeholder_embeddings is None:
        return encoder(input_ids, output_hidden_states=True)

    def replace_placeholder_embeddings(_module: nn.Module, _args: tuple[object, ...], embeddings: Tensor) -> Tensor:
        return torch.where(
            placeholder_mask[..., None], placeholder_embeddings.to(embeddings.dtype)[:, None], embeddings
        )

    hook = encoder.get_input_embeddings().register_forward_hook(replace_placeholder_embeddings)
    try:
        return encoder(input_ids, output_hidden_states=True)
    finally:
        hook.remove()
