"""Prompts with a placeholder to text states, the placeholder's input embedding being emb(w) + s v."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from encoder.backbone import Backbone
from encoder.errors import ConfigError

PLACEHOLDER = "*s"


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """How a concept is spoken of."""

    domain_word: str
    """w, the domain's word, one token of the base's tokenizer: face, cat, art."""
    residual_scale: float = 0.1
    """s in emb(w) + s v (E4T, arXiv 2302.12228)."""
    templates: tuple[str, ...] = ("a photo of *s",)
    """Neutral prompts of pre-training and tuning; *s stands for the concept."""
    caption_share: float = 0.0
    """Share of prompts that are the picture's own caption with the domain word replaced by *s, so that what the caption
    says need not be learned as the concept. Captions must not describe the concept itself."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", tuple(self.templates))
        bad = [template for template in self.templates if PLACEHOLDER not in template]
        if bad or not self.templates:
            raise ConfigError(f"conditioning.templates: {bad or 'none given'}; each must hold {PLACEHOLDER}")
        if not 0 <= self.caption_share <= 1:
            raise ConfigError(f"conditioning.caption_share is {self.caption_share}; give a share from 0 to 1")


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts."""

    ids: Tensor
    """(B, L); the placeholder already replaced by the domain word."""
    placeholder: Tensor
    """(B, L) bool: where the concept stands."""

    def __getitem__(self, index: slice | Tensor) -> "Prompts":
        return Prompts(self.ids[index], self.placeholder[index])


class Conditioning:
    """Turns prompts into text states, with or without a concept's residual."""

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, config: ConditioningConfig) -> None:
        self.text_encoder, self.config = text_encoder, config
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.add_tokens(PLACEHOLDER)
        self.placeholder_id = self.tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        word = tokenizer(config.domain_word, add_special_tokens=False).input_ids
        if len(word) != 1:
            raise ConfigError(
                f"conditioning.domain_word {config.domain_word!r} is {len(word)} tokens of this base; "
                "give a word that is one"
            )
        self.word_id = word[0]
        self._null_states: Tensor | None = None

    @classmethod
    def of(cls, backbone: Backbone, config: ConditioningConfig) -> "Conditioning":
        """The conditioning of a backbone."""
        return cls(backbone.tokenizer, backbone.text_encoder, config)

    def tokenize(self, prompts: Sequence[str]) -> Prompts:
        """Tokenise; every *s becomes the domain word with its place marked."""
        ids = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        placeholder = ids == self.placeholder_id
        return Prompts(ids.masked_fill(placeholder, self.word_id), placeholder)

    def states(self, prompts: Prompts, v: Tensor | None = None) -> Tensor:
        """Text states (B, L, d) with s v added to the domain word's embedding at the placeholder; v is (B, d)."""
        device = self.text_encoder.device
        ids, placeholder = prompts.ids.to(device), prompts.placeholder.to(device)
        if v is None:
            return self.text_encoder(ids).last_hidden_state  # type: ignore[no-any-return]

        def add_residual(_module: nn.Module, _args: tuple[object, ...], embeddings: Tensor) -> Tensor:
            residual = self.config.residual_scale * v.to(embeddings.dtype)
            return embeddings + residual[:, None] * placeholder[..., None]

        hook = self.text_encoder.get_input_embeddings().register_forward_hook(add_residual)
        try:
            return self.text_encoder(ids).last_hidden_state  # type: ignore[no-any-return]
        finally:
            hook.remove()

    def null_states(self) -> Tensor:
        """States (1, L, d) of the empty prompt, computed once."""
        if self._null_states is None:
            with torch.no_grad():
                self._null_states = self.states(self.tokenize([""]))
        return self._null_states

    def draw_prompts(self, captions: Sequence[str], choice: Tensor) -> Prompts:
        """Tokenised prompts of pictures with these captions, by numbers (B,) uniform in [0, 1)."""
        return self.tokenize([self.prompt_for(*pair) for pair in zip(captions, choice.tolist(), strict=True)])

    def prompt_for(self, caption: str, choice: float) -> str:
        """A picture's prompt: its caption or one of the templates, as ``choice``, uniform in [0, 1), decides."""
        if choice < self.config.caption_share:
            return self.caption_prompt(caption)
        share = (choice - self.config.caption_share) / (1 - self.config.caption_share)
        return self.config.templates[int(share * len(self.config.templates))]

    def caption_prompt(self, caption: str) -> str:
        """The caption with the first domain word replaced by *s; the first template if the word is not in it."""
        words = caption.split()
        if self.config.domain_word not in words:
            return self.config.templates[0]
        place = words.index(self.config.domain_word)
        return " ".join([*words[:place], PLACEHOLDER, *words[place + 1 :]])
