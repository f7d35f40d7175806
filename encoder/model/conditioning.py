"""Encode prompts with a placeholder whose token embedding is emb(w) + s v.

w is the domain word, v the output of the domain encoder and s a constant factor (E4T, arXiv 2302.12228).
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.backbone.text_encoders import PromptEmbeddings, TextEncoders, TokenizedPrompts
from encoder.config import ConditioningConfig
from encoder.errors import ModelError
from encoder.placeholder import PLACEHOLDER, count_placeholders, insert_placeholder, replace_placeholder


class Conditioning:
    """Turn prompts into prompt embeddings, with the concept at the placeholder if it is given."""

    def __init__(self, text_encoders: TextEncoders, config: ConditioningConfig) -> None:
        """Raise ConfigError if the domain word is not one token of every tokenizer of the base model."""
        self.text_encoders, self.config = text_encoders, config
        self._tokenizers = [
            _PlaceholderTokenizer(tokenizer, config.domain_word) for tokenizer in text_encoders.tokenizers
        ]
        self._unconditional_embeddings: PromptEmbeddings | None = None

    @classmethod
    def from_backbone(cls, backbone: Backbone, config: ConditioningConfig) -> "Conditioning":
        """Create a conditioning with the text encoders of a backbone."""
        return cls(backbone.text_encoders, config)

    def tokenize(self, prompts: Sequence[str]) -> TokenizedPrompts:
        """Tokenize prompts. The domain word's token stands at every ``*s``, and the mask marks these positions.

        Prompts that are longer than the text encoder reads are cut. Raises ModelError if that cuts off a placeholder.
        """
        tokenized, kept = self._tokenize(prompts)
        for prompt, count in zip(prompts, kept, strict=True):
            if count < count_placeholders(prompt):
                limit = tokenized.input_ids.shape[-1] - 2  # without the tokens for start and end
                raise ModelError(
                    f"the prompt {prompt[:40]!r}... is longer than the {limit} tokens that this base model reads, and "
                    f"{PLACEHOLDER} is beyond them; shorten it, or move {PLACEHOLDER} to the front"
                )
        return tokenized

    def _tokenize(self, prompts: Sequence[str]) -> tuple[TokenizedPrompts, list[int]]:
        """Tokenize prompts; also return the number of placeholders of each prompt that every text encoder sees."""
        tokenized = [tokenizer.tokenize(prompts) for tokenizer in self._tokenizers]
        input_ids, masks, counts = zip(*tokenized, strict=True)
        kept = [min(of_encoders) for of_encoders in zip(*counts, strict=True)]
        return TokenizedPrompts(torch.stack(input_ids, dim=1), torch.stack(masks, dim=1)), kept

    def encode_prompts(
        self, prompts: TokenizedPrompts, placeholder_embeddings: Tensor | None = None
    ) -> PromptEmbeddings:
        """Encode tokenized prompts with ``placeholder_embeddings`` (B, d) at the placeholder.

        Without them the placeholder has the embedding of the domain word.
        """
        return self.text_encoders(prompts, placeholder_embeddings)  # type: ignore[no-any-return]

    def domain_embedding(self) -> Tensor:
        """Return emb(w) (d,), the domain word's token embedding of all text encoders, float32."""
        return self.text_encoders.token_embedding([tokenizer.domain_token_id for tokenizer in self._tokenizers])

    def placeholder_embeddings(self, v: Tensor) -> Tensor:
        """Return emb(w) + s v (B, d) for the domain encoder's output v (B, d)."""
        return self.domain_embedding() + self.config.embedding_scale * v.float()

    def unconditional_embeddings(self) -> PromptEmbeddings:
        """Return the embeddings (1, L, d) of the empty prompt. They are computed once."""
        if self._unconditional_embeddings is None:
            with torch.no_grad():
                embeddings = self.encode_prompts(self.tokenize([""]))
            self._unconditional_embeddings = (
                embeddings.zeros_like() if self.text_encoders.force_zeros_for_empty_prompt else embeddings
            )
        return self._unconditional_embeddings.to(self.text_encoders.device)

    def sample_prompts(self, captions: Sequence[str], prompt_choice: Tensor) -> TokenizedPrompts:
        """Choose and tokenize a prompt for each caption.

        ``prompt_choice`` (B,), uniform in [0, 1), decides as in ``choose_prompt``. Captions that are so long that the
        placeholder would be cut off are replaced by the first template.
        """
        prompts = [self.choose_prompt(*pair) for pair in zip(captions, prompt_choice.tolist(), strict=True)]
        tokenized, kept = self._tokenize(prompts)
        if all(kept):
            return tokenized
        return self._tokenize(
            [prompt if count else self.config.templates[0] for prompt, count in zip(prompts, kept, strict=True)]
        )[0]

    def choose_prompt(self, caption: str, prompt_choice: float) -> str:
        """Choose an image's caption or one of the templates by ``prompt_choice``, a number uniform in [0, 1)."""
        if prompt_choice < self.config.caption_probability:
            return self.caption_prompt(caption)
        fraction = (prompt_choice - self.config.caption_probability) / (1 - self.config.caption_probability)
        return self.config.templates[int(fraction * len(self.config.templates))]

    def caption_prompt(self, caption: str) -> str:
        """Replace the first domain word of a caption by ``*s``; see the function ``caption_prompt``."""
        return caption_prompt(caption, self.config)


def caption_prompt(caption: str, config: ConditioningConfig) -> str:
    """Replace the first domain word of a caption by ``*s``; return the first template if the caption lacks the word."""
    return insert_placeholder(caption, config.domain_word) or config.templates[0]


PLACEHOLDER_TOKEN = "<|concept|>"
"""Token that the tokenizers see in place of the placeholder; unlike ``*s``, no text contains it by chance."""


class _PlaceholderTokenizer:
    """A CLIP tokenizer that recognizes the placeholder."""

    def __init__(self, tokenizer: CLIPTokenizer, domain_word: str) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.add_tokens(PLACEHOLDER_TOKEN)
        self.placeholder_id = self.tokenizer.convert_tokens_to_ids(PLACEHOLDER_TOKEN)
        token_ids = tokenizer(domain_word, add_special_tokens=False).input_ids
        if len(token_ids) != 1:
            raise ConfigError(
                f"conditioning.domain_word {domain_word!r} is {len(token_ids)} tokens of this base model; "
                "give a word that is one token"
            )
        self.domain_token_id = token_ids[0]

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, list[int]]:
        """Return token ids and the mask of the placeholder, each (B, L), and the number of placeholders per prompt."""
        texts = [replace_placeholder(prompt, PLACEHOLDER_TOKEN) for prompt in prompts]
        rows: list[list[int]] = self.tokenizer(texts, padding="max_length", truncation=True).input_ids
        counts = [row.count(self.placeholder_id) for row in rows]  # tensors have no values while a plan is made
        input_ids = torch.tensor(rows)
        mask = input_ids == self.placeholder_id
        return input_ids.masked_fill(mask, self.domain_token_id), mask, counts
