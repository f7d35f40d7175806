"""What an archive holds, before it is known which of it are pictures to take."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from data_prep.sources.names import is_utf8

MemberLocation = tuple[int, ...]

Members = Iterator["Member | None"]
"""Members of an archive in its order; None, at the end, says that it is damaged from there on."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; about 0.4 kB with its name."""

    name: str
    """Relative path, as ``clean_name`` gives it."""
    location: MemberLocation
    """Where it lies, for the reader of this kind of archive."""
    size: int
    """Bytes, once decompressed, as the archive declares it."""
    version: str
    """Changes when the content does."""
    problem: str | None
    """Why it must not be read."""


def clean_name(name: str) -> str:
    """The path without ``./`` and doubled slashes, so that a file has one name."""
    return str(PurePosixPath(name))


def name_problem(name: str) -> str | None:
    """What is wrong with a member's name.

    Nothing is ever unpacked to it, but an archive that was made to harm is no source of pictures.
    """
    if not is_utf8(name):
        return "name is not UTF-8"
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or re.match(r"[A-Za-z]:", name):
        return "unsafe name"
    return None
