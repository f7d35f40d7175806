"""What a source lists: pictures that are not opened yet."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

Scalar = str | int | float | bool | None
"""A value of a column."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A picture before it is opened; plain data, so that a plan can be a file of JSON lines."""

    key: str
    """Name in the shards: safe as a tar member's name, without a dot, and unique in the set."""
    identity: str
    """Who or what it shows; splits are by identity."""
    source: str
    """Where it came from, to be read by people: a path relative to the source, ``archive.zip!member``, a URL, a row."""
    location: tuple[str | int, ...]
    """Where it lies, to be read by the source that listed it."""
    version: str = ""
    """Changes when the picture (or its caption's file) does, as far as the source can tell without reading it."""
    caption: str | None = None
    """From a column, if the source has one for it."""
    columns: dict[str, Scalar] = field(default_factory=dict)
    """What else the source says about it; kept beside the picture in the shards."""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A picture that is kept out, and why."""

    key: str
    """As in Record."""
    source: str
    """As in Record."""
    reason: str
    """One of few, so that they can be counted."""


class SampleRejected(Exception):  # noqa: N818 - an outcome, not an error
    """The picture is kept out; the message is the reason, from a small fixed set, so that reasons can be counted."""


class Source(Protocol):
    """Where pictures come from. It is pickled to workers: open handles are made when they are first needed."""

    def __iter__(self) -> Iterator[Record | Reject]:
        """List every picture, always in the same order, without holding them all; DataError if that cannot be done."""

    def read(self, record: Record) -> bytes:
        """The picture's file, whole. Raises OSError if it cannot be had, Rejected if it must not be taken."""

    def caption(self, record: Record) -> str | None:
        """The text that lies beside the picture, or the record's own, or None."""
