"""Find the archive files of a source."""

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from braceexpand import braceexpand

from data_prep.config import ReadConfig
from data_prep.errors import DataError
from data_prep.records import Ignored, Reject
from data_prep.sources.archives.tar import COMPRESSED_SUFFIXES
from data_prep.sources.files.failures import listing_errors
from data_prep.sources.files.filesystem import (
    FileTree,
    expand_home,
    is_file,
    is_folder,
    is_local,
    open_parent,
    open_tree,
)
from data_prep.sources.names import Keys, escape, hashed_key, is_utf8
from data_prep.sources.selection import Selection, is_hidden, other_reason

TAR_SUFFIXES = (".tar", *COMPRESSED_SUFFIXES)
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)


@dataclass(frozen=True)
class ArchiveFile:
    """One archive of a source."""

    name: str
    """Path relative to the folder of the source."""
    key_prefix: str
    """Prefix of the sample keys, ``<archive name>/`` if the source has several archives, else empty."""

    def as_reject(self) -> Reject:
        """Return the Reject that stands for all members that could not be listed."""
        return Reject(key=hashed_key(self.name, "archive"), source=self.name, reason="corrupt archive")


@dataclass(frozen=True)
class ArchiveFiles:
    """The archives of a source, and what else is in their folder."""

    tree: FileTree
    """Folder of the archives."""
    archives: tuple[ArchiveFile, ...]
    ignored: tuple[Ignored, ...]
    """Entries of the folder, or files that match the pattern, that are not archives to be read."""


def find_archives(source: str, selection: Selection, suffixes: tuple[str, ...] = ARCHIVE_SUFFIXES) -> ArchiveFiles:
    """Return the archive, the archives in a folder, or those that match a pattern with ``*`` or braces.

    Raises DataError if there is none.
    """
    tree, names = expand_pattern(source, selection.read)
    if names is None:
        parent, tree = tree, open_tree(source, selection.read)
        if is_archive(source, suffixes) and not is_folder(tree):
            with listing_errors(source):  # says why there is no such file
                parent.entry(source.rpartition("/")[2])
        entries = tree.entries("", lambda _: False) if is_folder(tree) else []
        names = [f"{entry.name}/" if entry.kind == "folder" else entry.name for entry in entries]
    elif names == [source.rpartition("/")[2]] and is_archive(source, suffixes):
        return ArchiveFiles(tree, with_unique_prefixes(names), ())  # named explicitly, so it may be hidden
    stems = {name.partition(".")[0] for name in names if is_archive(name, suffixes)}
    reasons = {name: _reason_to_ignore(name, selection, suffixes, stems) for name in names}
    archives = [name for name, reason in reasons.items() if reason is None]
    if not archives:
        raise DataError(f"source {source}: no such archive; give {', '.join(suffixes)}, a folder or a pattern of them")
    ignored = [Ignored(source=escape(name), reason=reason) for name, reason in reasons.items() if reason]
    return ArchiveFiles(tree, with_unique_prefixes(archives), tuple(ignored))


def expand_pattern(source: str, config: ReadConfig) -> tuple[FileTree, list[str] | None]:
    """Return the files that a path, a pattern with ``*`` (sorted) or a brace pattern (in its order) names.

    The names are relative to the tree, and None if the source is no pattern and no file. A brace pattern names files
    that need not exist. Raises DataError if braces are not balanced.
    """
    folder, pattern = split_pattern(source)
    if not pattern:
        tree, name = open_parent(source, config)
        return tree, [name] if is_file(tree, name) else None
    tree = open_tree(folder, config)
    if "{" not in pattern:
        literal, star, rest = pattern.partition("*")
        names = tree.glob(glob.escape(literal) + star + rest)
        return tree, [name for name in names if not _is_hidden_match(name, pattern)]
    try:
        return tree, list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise DataError(f"source {source}: braces are not balanced; give a pattern like {{000..041}}.tar") from error


def first_file(source: str, config: ReadConfig) -> tuple[FileTree, str]:
    """Return the first file that a path or pattern names, relative to the tree; empty if nothing matches a pattern."""
    if not is_pattern(source):
        return open_parent(source, config)
    tree, names = expand_pattern(source, config)
    return tree, (names or [""])[0]


def split_pattern(source: str) -> tuple[str, str]:
    """Split a source into a folder and a pattern relative to it, which is empty if the source is no pattern.

    Files and folders on the local disk whose names contain ``*`` or braces are taken literally.
    """
    path = expand_home(source.removeprefix("file://")) if is_local(source) else source
    parts = path.split("/")
    first = next((index for index, part in enumerate(parts) if "*" in part or "{" in part), len(parts))
    while is_local(source) and first < len(parts) and Path("/".join(parts[: first + 1])).exists():
        first += 1
    folder, pattern = "/".join(parts[:first]), "/".join(parts[first:])
    if not ("*" in pattern or "{" in pattern):
        return source, ""
    if folder.endswith(":/"):  # memory://*.tar
        folder += "/"
    return folder or ("/" if path.startswith("/") else "."), pattern


def _is_hidden_match(name: str, pattern: str) -> bool:
    """Return whether a part of a path is hidden although the pattern does not begin with that; as in a shell."""
    parts = zip_longest(name.split("/"), pattern.split("/"), fillvalue="")
    return any(is_hidden(part) and part[:1] != wanted[:1] for part, wanted in parts)


def is_pattern(source: str) -> bool:
    """Return whether a source names files by a pattern with ``*`` or braces."""
    return bool(split_pattern(source)[1])


def with_unique_prefixes(names: Sequence[str]) -> tuple[ArchiveFile, ...]:
    """Give each archive a key prefix if there are several. Raises DataError for a name that is not UTF-8."""
    for name in names:
        if not is_utf8(name):
            raise DataError(f"source: the archive {name!r} has a name that is not UTF-8; rename it")
    keys = Keys()
    return tuple(ArchiveFile(name, f"{keys.assign(_single_suffix(name))}/" if len(names) > 1 else "") for name in names)


def is_archive(name: str, suffixes: Iterable[str] = ARCHIVE_SUFFIXES) -> bool:
    """Return whether the name has an archive suffix."""
    return name.lower().endswith(tuple(suffixes))


def _reason_to_ignore(name: str, selection: Selection, suffixes: tuple[str, ...], stems: set[str]) -> str | None:
    """Return why a file or a folder (with a slash at its end) beside archives is ignored, or None for an archive.

    ``stems`` are the names of the archives without suffix.
    """
    reason = selection.reason_to_ignore(name.rstrip("/"))
    if reason or is_archive(name, suffixes):
        return reason
    if name.endswith("/"):
        return "folder beside archives"
    if re.sub(r"(_stats)?\.(json|parquet|csv)$", "", name) in stems:
        return "side table"
    return f"extension .{name.rpartition('.')[2].lower()}" if is_archive(name) else other_reason(name)


def _single_suffix(name: str) -> str:
    """Turn ``set.tar.gz`` into ``set.tar-gz``, because ``split_suffix`` splits at the last dot only."""
    suffix = max((suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix)), key=len)
    return f"{name[: -len(suffix)]}.{suffix[1:].replace('.', '-')}"
