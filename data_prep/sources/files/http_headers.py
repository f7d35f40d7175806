"""Parse the headers of HTTP answers that matter for reading a source."""

import re
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

ROBOTS_DIRECTIVES = frozenset(("noai", "noindex", "noimageai", "noimageindex"))
"""Directives of ``X-Robots-Tag`` by which a server forbids to use an image."""
_VALUED_DIRECTIVES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""Directives that are followed by a colon and a value, as the name of a robot is followed by its directives."""


class ContentRange(NamedTuple):
    """The header ``Content-Range``."""

    first: int
    """Offset of the first byte of the body in the file."""
    last: int
    """Offset of the last byte of the body in the file."""
    total: int | None
    """Size of the file in bytes, if the server knows it."""


def parse_content_range(value: str) -> ContentRange | None:
    """Parse ``bytes 0-99/1234``; None if it is anything else."""
    match = re.fullmatch(r"bytes\s+(\d+)-(\d+)/(\d+|\*)", value.strip(), re.IGNORECASE)
    if match is None or int(match[1]) > int(match[2]):
        return None
    return ContentRange(int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3]))


def parse_total(value: str) -> int | None:
    """Return the size of the file of ``bytes */1234`` or ``bytes 0-99/1234``; None if it is not known."""
    match = re.fullmatch(r"bytes\s+.*/(\d+)", value.strip(), re.IGNORECASE)
    return int(match[1]) if match else None


def parse_retry_after(value: str) -> float:
    """Return the pause in seconds that ``Retry-After`` asks for, as a number or a date; 0 if it is neither."""
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def forbids_use(values: Iterable[str], user_agent: str) -> bool:
    """Return whether the values of ``X-Robots-Tag`` forbid this user agent to use the image.

    Directives that follow the name of another robot, as in ``otherbot: noindex``, do not count.
    """
    own_name = re.split(r"[\s/]", user_agent.strip().lower(), maxsplit=1)[0]
    for value in values:
        robot = ""
        for part in value.lower().split(","):
            name, colon, rest = (text.strip() for text in part.partition(":"))
            if colon and name not in _VALUED_DIRECTIVES:
                robot = name
            if robot in ("", "*", own_name) and (rest if colon else name) in ROBOTS_DIRECTIVES:
                return True
    return False


def version_tags(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what tells the version of a file, the most reliable first."""
    tags = {"modified": headers.get("Last-Modified", "").strip()}
    # A server may send the weak form for some requests and the strong one for others.
    tags = {"etag": headers.get("ETag", "").strip().removeprefix("W/").strip('"')} | tags
    return {kind: value for kind, value in tags.items() if value}
