"""The kinds of token that can stand for a concept in a prompt."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from encoder.placeholder import replace_placeholder


class EncodedToken(NamedTuple):
    """A token that the domain encoder predicts from the image at every timestep (E4T, arXiv 2302.12228)."""

    class_tokens: Tensor
    """CLIP features of the image that the encoder takes, (1, K, width); the mean if there are several images."""


class LearnedToken(NamedTuple):
    """A token whose embedding was optimized directly (Textual Inversion, arXiv 2208.01618)."""

    embedding: Tensor
    """Embedding (d,), float32, concatenated over the text encoders."""
    widths: tuple[int, ...]
    """Width of each text encoder's part of the embedding; their sum is d."""


class RareToken(NamedTuple):
    """A rare token before the domain word; the weights learn its meaning (DreamBooth, arXiv 2208.12242)."""

    text: str
    """The rare token, such as ``sks``."""


ConceptToken = EncodedToken | LearnedToken | RareToken


def expand_placeholder(prompts: Sequence[str], token: ConceptToken | None, domain_word: str) -> list[str]:
    """Replace ``*s`` by '<rare token> <domain word>' for a RareToken; return prompts of other tokens unchanged."""
    if not isinstance(token, RareToken):
        return list(prompts)
    return [replace_placeholder(prompt, f"{token.text} {domain_word}") for prompt in prompts]
