"""The placeholder ``*s`` in prompts, which stands for the concept."""

import re

PLACEHOLDER = "*s"
"""What stands for the concept in prompts. It counts as a word of its own, in lower or upper case: ``*s, smiling`` and
``*S's hat`` hold it, ``*shirt`` does not."""
_PATTERN = re.compile(rf"(?<![\w*]){re.escape(PLACEHOLDER)}(?!\w)", re.IGNORECASE)


def count_placeholders(prompt: str) -> int:
    """Return how often a prompt holds the placeholder."""
    return len(_PATTERN.findall(prompt))


def has_placeholder(prompt: str) -> bool:
    """Return whether a prompt holds the placeholder."""
    return bool(_PATTERN.search(prompt))


def replace_placeholder(prompt: str, text: str) -> str:
    """Replace every placeholder of a prompt by ``text``."""
    return _PATTERN.sub(lambda _: text, prompt)


def insert_placeholder(caption: str, word: str) -> str | None:
    """Replace the first occurrence of ``word`` by the placeholder, whatever its case and the punctuation around it.

    A caption that holds the placeholder is returned unchanged. Returns None if the caption has neither.
    """
    if has_placeholder(caption):
        return caption
    prompt, count = re.subn(
        rf"(?<!\w){re.escape(word)}(?!\w)", lambda _: PLACEHOLDER, caption, count=1, flags=re.IGNORECASE
    )
    return prompt if count else None
