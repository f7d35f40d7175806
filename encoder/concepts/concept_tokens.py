"""What stands for a concept in a prompt."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from encoder.config import PLACEHOLDER


class PictureWord(NamedTuple):
    """What the domain encoder says of a picture, anew at every timestep (E4T, arXiv 2302.12228)."""

    class_tokens: Tensor
    """(1, K, width) of the picture, or what else the encoder looks at; averaged if there are several."""


class LearnedWord(NamedTuple):
    """An embedding that was itself learned (Textual Inversion, arXiv 2208.01618)."""

    embedding: Tensor
    """(d,), of all text encoders together; float32."""
    widths: tuple[int, ...]
    """Of each text encoder's part; their sum is d."""


class Identifier(NamedTuple):
    """A rare word before the domain's, which the weights have learned to mean (DreamBooth, arXiv 2208.12242)."""

    text: str


Word = PictureWord | LearnedWord | Identifier


def spoken(prompts: Sequence[str], word: Word | None, domain_word: str) -> list[str]:
    """Prompts with *s put into words, if the concept's word is words: ``a photo of sks person``."""
    if not isinstance(word, Identifier):
        return list(prompts)
    return [prompt.replace(PLACEHOLDER, f"{word.text} {domain_word}") for prompt in prompts]
