"""Prompts with a placeholder to text states, the placeholder's input embedding being emb(w) + s v."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import Prompts, TextEncoders, TextStates
from encoder.config import PLACEHOLDER, ConditioningConfig
from encoder.errors import ConfigError


class Conditioning:
    """Turns prompts into text states, with or without a concept's residual."""

    def __init__(self, text: TextEncoders, config: ConditioningConfig) -> None:
        """Raises ConfigError if the domain word is not one token of every tokenizer of the base."""
        self.text, self.config = text, config
        self._words = [_Words(tokenizer, config.domain_word) for tokenizer in text.tokenizers]
        self._null_states: TextStates | None = None

    @classmethod
    def of(cls, backbone: Backbone, config: ConditioningConfig) -> "Conditioning":
        """The conditioning of a backbone."""
        return cls(backbone.text, config)

    def tokenize(self, prompts: Sequence[str]) -> Prompts:
        """Tokenise; every *s becomes the domain word with its place marked."""
        pairs = [words.tokenize(prompts) for words in self._words]
        ids, placeholder = (torch.stack(each, dim=1) for each in zip(*pairs, strict=True))
        return Prompts(ids, placeholder)

    def states(self, prompts: Prompts, words: Tensor | None = None) -> TextStates:
        """Text states with ``words`` (B, d) as embeddings at the placeholder, by default the domain word's own."""
        return self.text(prompts, words)  # type: ignore[no-any-return]

    def domain_embedding(self) -> Tensor:
        """emb(w) (d,), the domain word's embedding; of all text encoders, float32."""
        return self.text.embedding([words.word_id for words in self._words])

    def words(self, v: Tensor) -> Tensor:
        """emb(w) + s v (B, d) of residuals v (B, d) (E4T, arXiv 2302.12228)."""
        return self.domain_embedding() + self.config.residual_scale * v.float()

    def null_states(self) -> TextStates:
        """States (1, L, d) of the empty prompt, computed once."""
        if self._null_states is None:
            with torch.no_grad():
                states = self.states(self.tokenize([""]))
            self._null_states = states.zeroed() if self.text.null_is_zero else states
        return self._null_states.to(self.text.device)

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
        return caption_prompt(caption, self.config)


def caption_prompt(caption: str, config: ConditioningConfig) -> str:
    """What ``Conditioning.caption_prompt`` gives, where no base is loaded."""
    words = caption.split()
    if config.domain_word not in words:
        return config.templates[0]
    place = words.index(config.domain_word)
    return " ".join([*words[:place], PLACEHOLDER, *words[place + 1 :]])


class _Words:
    """A tokenizer that knows the placeholder."""

    def __init__(self, tokenizer: CLIPTokenizer, domain_word: str) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.add_tokens(PLACEHOLDER)
        self.placeholder_id = self.tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        word = tokenizer(domain_word, add_special_tokens=False).input_ids
        if len(word) != 1:
            raise ConfigError(
                f"conditioning.domain_word {domain_word!r} is {len(word)} tokens of this base; give a word that is one"
            )
        self.word_id = word[0]

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and places of the placeholder, each (B, L)."""
        ids = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        placeholder = ids == self.placeholder_id
        return ids.masked_fill(placeholder, self.word_id), placeholder
