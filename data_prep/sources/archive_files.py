"""Find the archive files of a source."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.errors import DataError
from data_prep.records import Reject
from data_prep.sources.filesystem import FileTree, is_file, open_parent, open_tree
from data_prep.sources.names import Keys, hashed_key, is_utf8
from data_prep.sources.tar import COMPRESSED_SUFFIXES

ARCHIVE_SUFFIXES = (".zip", ".tar", *COMPRESSED_SUFFIXES)


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


def find_archives(source: str) -> tuple[FileTree, tuple[ArchiveFile, ...]]:
    """Return the archive, the archives in a folder, or those that match a pattern with ``*``, sorted by name.

    Raises DataError if there is none.
    """
    if "*" in source:
        fixed, star, rest = source.partition("*")
        tree, prefix = open_parent(fixed)
        names = [name for name in tree.glob(prefix + star + rest) if is_archive(name)]
    elif is_archive(source):
        tree, name = open_parent(source)
        names = [name] if is_file(tree, name) else []
    else:
        tree = open_tree(source)
        names = [entry.name for entry in tree.entries("", is_archive) if entry.kind == "file"]
    if not names:
        raise DataError(
            f"source {source}: no such archive; give {', '.join(ARCHIVE_SUFFIXES)}, a folder or a pattern of them"
        )
    return tree, with_unique_prefixes(names)


def with_unique_prefixes(names: Sequence[str]) -> tuple[ArchiveFile, ...]:
    """Give each archive a key prefix if there are several. Raises DataError for a name that is not UTF-8."""
    for name in names:
        if not is_utf8(name):
            raise DataError(f"source: the archive {name!r} has a name that is not UTF-8; rename it")
    keys = Keys()
    return tuple(ArchiveFile(name, f"{keys.assign(_single_suffix(name))}/" if len(names) > 1 else "") for name in names)


def is_archive(name: str) -> bool:
    """Return whether the name has an archive suffix."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def _single_suffix(name: str) -> str:
    """Turn ``set.tar.gz`` into ``set.tar-gz``, because ``split_suffix`` splits at the last dot only."""
    suffix = max((suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix)), key=len)
    return f"{name[: -len(suffix)]}.{suffix[1:].replace('.', '-')}"
