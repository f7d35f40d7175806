"""Prompts with a placeholder to text states, the placeholder's input embedding being emb(w) + s v."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from e4t import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import PromptEmbeddings, TextEncoders, TokenizedPrompts
from encoder.config import PLACEHOLDER, ConditioningConfig


class Conditioning:
    """Turns prompts into text states, with or without a concept's residual."""

    def __init__(self, text_encoders: TextEncoders, config: ConditioningConfig) -> None:
        """Raises ConfigError if the domain word is not one token of every tokenizer of the base."""
        self.text_encoders, self.config = text_encoders, config
        self._tokenizers = [
            _PlaceholderTokenizer(tokenizer, config.domain_word) for tokenizer in text_encoders.tokenizers
        ]
        self._unconditional_embeddings: PromptEmbeddings | None = None

    @classmethod
    def from_backbone(cls, backbone: Backbone, config: ConditioningConfig) -> "Conditioning":
        """The conditioning of a backbone."""
        return cls(backbone.text_encoders, config)

    def tokenize(self, prompts: Sequence[str]) -> TokenizedPrompts:
        """Tokenise; every *s becomes the domain word with its place marked."""
        pairs = [tokenizer.tokenize(prompts) for tokenizer in self._tokenizers]
        input_ids, placeholder_mask = (torch.stack(each, dim=1) for each in zip(*pairs, strict=True))
        return TokenizedPrompts(input_ids, placeholder_mask)

    def encode_prompts(
        self, prompts: TokenizedPrompts, placeholder_embeddings: Tensor | None = None
    ) -> PromptEmbeddings:
        """Text states with ``words`` (B, d) as embeddings at the placeholder, by default the domain word's own."""
        return self.text_encoders(prompts, placeholder_embeddings)  # type: ignore[no-any-return]

    def domain_embedding(self) -> Tensor:
        """emb(w) (d,), the domain word's embedding; of all text encoders, float32."""
        return self.text_encoders.token_embedding([tokenizer.domain_token_id for tokenizer in self._tokenizers])

    def placeholder_embeddings(self, v: Tensor) -> Tensor:
        """emb(w) + s v (B, d) of residuals v (B, d) (E4T, arXiv 2302.12228)."""
        return self.domain_embedding() + self.config.embedding_scale * v.float()

    def unconditional_embeddings(self) -> PromptEmbeddings:
        """States (1, L, d) of the empty prompt, computed once."""
        if self._unconditional_embeddings is None:
            with torch.no_grad():
                embeddings = self.encode_prompts(self.tokenize([""]))
            self._unconditional_embeddings = (
                embeddings.zeros_like() if self.text_encoders.force_zeros_for_empty_prompt else embeddings
            )
        return self._unconditional_embeddings.to(self.text_encoders.device)

    def sample_prompts(self, captions: Sequence[str], prompt_choice: Tensor) -> TokenizedPrompts:
        """Tokenised prompts of pictures with these captions, by numbers (B,) uniform in [0, 1)."""
        return self.tokenize([self.choose_prompt(*pair) for pair in zip(captions, prompt_choice.tolist(), strict=True)])

    def choose_prompt(self, caption: str, prompt_choice: float) -> str:
        """A picture's prompt: its caption or one of the templates, as ``choice``, uniform in [0, 1), decides."""
        if prompt_choice < self.config.caption_probability:
            return self.caption_prompt(caption)
        fraction = (prompt_choice - self.config.caption_probability) / (1 - self.config.caption_probability)
        return self.config.templates[int(fraction * len(self.config.templates))]

    def caption_prompt(self, caption: str) -> str:
        """The caption with the first domain word replaced by *s; the first template if the word is not in it."""
        return caption_prompt(caption, self.config)


def caption_prompt(caption: str, config: ConditioningConfig) -> str:
    """What ``Conditioning.caption_prompt`` gives, where no base is loaded."""
    words = caption.split()
    if config.domain_word not in words:
        return config.templates[0]
    index = words.index(config.domain_word)
    return " ".join([*words[:index], PLACEHOLDER, *words[index + 1 :]])


class _PlaceholderTokenizer:
    """A tokenizer that knows the placeholder."""

    def __init__(self, tokenizer: CLIPTokenizer, domain_word: str) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.add_tokens(PLACEHOLDER)
        self.placeholder_id = self.tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        token_ids = tokenizer(domain_word, add_special_tokens=False).input_ids
        if len(token_ids) != 1:
            raise ConfigError(
                f"conditioning.domain_word {domain_word!r} is {len(token_ids)} tokens of this base; give a word that is one"
            )
        self.domain_token_id = token_ids[0]

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and places of the placeholder, each (B, L)."""
        input_ids = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        placeholder_mask = input_ids == self.placeholder_id
        return input_ids.masked_fill(placeholder_mask, self.domain_token_id), placeholder_mask
