"""Samples of webdataset shards: members that share their name up to the first dot."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from data_prep.errors import DataError
from data_prep.records import Scalar
from data_prep.sources.members import Member
from data_prep.sources.names import is_picture
from data_prep.sources.rows import number_or_text, scalars

MAX_TEXT_BYTES = 2**20
"""A longer .json is none that says something about one picture."""


@dataclass(frozen=True)
class Sample:
    """Members that belong together."""

    name: str
    members: dict[str, Member]
    """By suffix, from the name's first dot on."""
    about: dict[str, Any] | None
    """What .json says, nothing if there is none; None if it is no JSON object."""
    label: Scalar
    """What .cls says."""

    @classmethod
    def of(cls, name: str, members: Iterable[Member | None], file: BinaryIO) -> "Sample":
        """The sample, whose members the tar in ``file`` comes to next."""
        found, texts = dict[str, Member](), dict[str, bytes]()
        for member in members:
            if member is not None:
                suffix = _split(member.name)[1]
                found.setdefault(suffix, member)
                if suffix in (".json", ".cls"):
                    texts.setdefault(suffix, _text(member, file))
        label = number_or_text(texts.get(".cls", b"").decode(errors="replace"))
        return cls(name, found, json_object(texts.get(".json", b"{}")), label)

    @property
    def start(self) -> int:
        """Where it begins."""
        return next(iter(self.members.values())).place[0]

    @property
    def picture(self) -> Member | None:
        """The first with a picture's suffix, and as little before that as there is."""
        pictures = [(suffix, member) for suffix, member in self.members.items() if is_picture(member.name)]
        return min(pictures, key=lambda found: found[0].count("."))[1] if pictures else None

    def columns(self, without: Iterable[str]) -> dict[str, Scalar]:
        """The rest of what the sample says, by name."""
        about = self.about or {}
        # Our own shards keep under this name what was known of the picture before.
        nested = about.get("columns")
        label = {} if self.label is None else {"cls": self.label}
        return scalars(about, without) | (scalars(nested) if isinstance(nested, dict) else {}) | label


def _split(path: str) -> tuple[str, str]:
    """A member's sample and suffix: ``a.b/0.mask.PNG`` is ``a.b/0`` and ``.mask.png``."""
    folder, slash, name = path.rpartition("/")
    name, dot, suffix = name.partition(".")
    return (folder + slash + name, (dot + suffix).lower()) if name and dot else ("", "")


def sample_name(member: Member | None) -> str | None:
    """What groups samples: None for a damage, nothing for what is no part of a sample."""
    return None if member is None else _split(member.name)[0]


def _text(member: Member, file: BinaryIO) -> bytes:
    """A small member, read while the listing stands at it; nothing if it cannot be."""
    if member.fault or member.size > MAX_TEXT_BYTES:
        return b""
    try:
        file.seek(member.place[0])
        return file.read(member.size)
    except DataError:
        raise
    except Exception:  # a damaged stream, at which the listing will end too
        return b""


def json_object(data: bytes) -> dict[str, Any] | None:
    """The object that is in a file; None if there is no such thing in it."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
