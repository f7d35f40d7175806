"""What a source lists: records of images that have not been opened yet, and rejects."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from data_prep.errors import SampleRejected

Scalar = str | int | float | bool | None
"""Value of a column."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """An image before it is opened. Plain data, so that a plan can be stored as JSON lines."""

    key: str
    """Sample key: unique in the dataset, safe as the name of a tar member, without dots."""
    identity: str
    """Person or object that the image shows; splits are made by identity."""
    source: str
    """Origin for messages: a path relative to the source, ``archive.zip!member``, a URL or a row."""
    location: tuple[str | int, ...]
    """Location, in the form that the source that listed it reads."""
    version: str = ""
    """Differs after the image or its caption file has changed, as far as the source can tell without reading it."""
    caption: str | None = None
    """Caption from a column of the source, if there is one."""
    has_caption: bool | None = None
    """Whether a caption was found, in a column or in a file that is read later; None if there is none and none was
    configured."""
    columns: dict[str, Scalar] = field(default_factory=dict)
    """Further columns of the source; stored with the sample in the shards."""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """An image that is not taken into the dataset."""

    key: str
    """Sample key, as in Record."""
    source: str
    """Origin, as in Record."""
    reason: str
    """Reason from a small fixed set, so that reasons can be counted."""
    cause: str = ""
    """Details of this case, such as the error message; empty if the reason says everything."""
    retryable: bool = False
    """Whether the reason may be temporary, so that the next run reads the image again."""

    @classmethod
    def from_error(cls, error: SampleRejected, *, key: str, source: str) -> "Reject":
        """Return the entry of an image for which reading or processing raised ``error``."""
        return cls(key=key, source=source, reason=error.reason, cause=error.cause, retryable=error.retryable)


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """An entry of the source that is not an image to be read, by its name or by the configuration."""

    source: str
    """Origin, as in Record."""
    reason: str
    """Reason from a small fixed set, such as ``hidden`` or ``extension .pdf``."""


Listed = Record | Reject | Ignored
"""What a source lists: every entry that it sees is exactly one of these."""


class Source(Protocol):
    """A source of images. Sources are pickled and sent to workers, so they open handles on first use."""

    def __iter__(self) -> Iterator[Listed]:
        """List every entry, always in the same order, without holding all of them in memory. Raises DataError."""

    def read(self, record: Record) -> bytes:
        """Read the image file.

        Raises SampleRejected if the image cannot or must not be taken, and SourceChangedError if the source is not what
        it was when the record was listed.
        """

    def caption(self, record: Record) -> str | None:
        """Return the caption from a file that belongs to the image, or else that of the record, or None.

        Raises as ``read``.
        """
