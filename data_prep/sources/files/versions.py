"""Versions of files at URLs: ``<size>-<kind> <tag>``, compared as far as a later answer has the same information."""

from collections.abc import Mapping

from data_prep.credentials import redact
from data_prep.errors import SourceChangedError


def make_version(size: int | None, tags: Mapping[str, str]) -> str:
    """Return the version of a file from its size, if that is known, and the first of its tags, if there is any.

    It contains no ``+``, because the versions of records are joined with it.
    """
    tag = next((f"{kind} {value}" for kind, value in tags.items()), "")
    return f"{'' if size is None else size}-{tag}".replace("+", "%2B")


def size_of(version: str) -> int | None:
    """Return the size that a version holds; None if it is unknown."""
    size = version.partition("-")[0]
    return int(size) if size.isdigit() else None


def check_same(label: object, planned: str, size: int | None, tags: Mapping[str, str]) -> None:
    """Raise SourceChangedError if a file is not of the planned version, as far as its size and tags tell."""
    planned_size, (kind, _, planned_tag) = size_of(planned), planned.partition("-")[2].partition(" ")
    tag = tags.get(kind, planned_tag).replace("+", "%2B")
    if None not in (planned_size, size) and planned_size != size:
        raise changed(label, f"{planned_size} bytes then, {size} now")
    if planned_tag and tag != planned_tag:
        raise changed(label, f"{kind} {planned_tag} then, {tag} now")


def changed(label: object, difference: str) -> SourceChangedError:
    """Return the error for a file or dataset that is not what was listed."""
    return SourceChangedError(
        f"source {redact(str(label))} was changed since it was listed ({difference}); rerun `e4t prepare`"
    )
