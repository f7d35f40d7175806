"""Members of an archive as they are listed, before images are selected."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from data_prep.errors import SampleRejected
from data_prep.sources.names import is_utf8

MemberLocation = tuple[int, ...]

Members = Iterator["Member | None"]
"""Members in the order of the archive; a final None means that the archive is corrupt from there on."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; takes about 0.4 kB of memory with its name."""

    name: str
    """Relative path, normalized by ``clean_name``."""
    location: MemberLocation
    """Position in the archive, in the form that the reader of this archive format takes."""
    size: int
    """Decompressed size in bytes, as declared by the archive."""
    version: str
    """Differs after the content has changed."""
    problem: str | None
    """Reject reason if the member must not be read, else None."""


class DamagedMember(SampleRejected):
    """The content of a member is not what the archive says. Trying again cannot help."""

    def __init__(self, cause: str) -> None:
        super().__init__("damaged in archive", cause=cause)


def clean_name(name: str) -> str:
    """Normalize a member path: remove ``./`` and doubled slashes, so that each file has one name."""
    return str(PurePosixPath(name))


def name_problem(name: str) -> str | None:
    """Return the reject reason for a member's name, or None if the name is fine.

    Members are never unpacked to disk, but unsafe names (absolute, ``..``) mark an archive that was made to do harm.
    """
    if not is_utf8(name):
        return "name is not UTF-8"
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or re.match(r"[A-Za-z]:", name):
        return "unsafe name"
    return None
