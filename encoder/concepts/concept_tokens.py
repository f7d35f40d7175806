"""What stands for a concept in a prompt."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from encoder.config import PLACEHOLDER


class EncodedToken(NamedTuple):
    """What the domain encoder says of a picture, anew at every timestep (E4T, arXiv 2302.12228)."""

    class_tokens: Tensor
    """(1, K, width) of the picture, or what else the encoder looks at; averaged if there are several."""


class LearnedToken(NamedTuple):
    """An embedding that was itself learned (Textual Inversion, arXiv 2208.01618)."""

    embedding: Tensor
    """(d,), of all text encoders together; float32."""
    widths: tuple[int, ...]
    """Of each text encoder's part; their sum is d."""


class RareToken(NamedTuple):
    """A rare word before the domain's, which the weights have learned to mean (DreamBooth, arXiv 2208.12242)."""

    text: str


ConceptToken = EncodedToken | LearnedToken | RareToken


def expand_placeholder(prompts: Sequence[str], token: ConceptToken | None, domain_word: str) -> list[str]:
    """Prompts with *s put into words, if the concept's word is words: ``a photo of sks person``."""
    if not isinstance(token, RareToken):
        return list(prompts)
    return [prompt.replace(PLACEHOLDER, f"{token.text} {domain_word}") for prompt in prompts]
