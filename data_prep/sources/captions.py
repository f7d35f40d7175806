"""The text beside a picture."""

from data_prep.sources.names import split_suffix

CAPTION_BYTES = 64 * 2**10
"""So much of the file is looked at."""


def beside(path: str, suffix: str) -> str:
    """The text that belongs to the picture at a path."""
    return split_suffix(path)[0] + suffix


def first_line(data: bytes) -> str | None:
    """The first line that is not empty, if there is one; what is not UTF-8 is replaced."""
    lines = data[:CAPTION_BYTES].decode("utf-8-sig", errors="replace").splitlines()
    return next((line.strip() for line in lines if line.strip()), None)
