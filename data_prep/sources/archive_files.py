"""Which archive files a source has."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.errors import DataError
from data_prep.records import Reject
from data_prep.sources.filesystem import Tree, is_file, open_parent, open_tree
from data_prep.sources.names import Keys, hashed_key, is_text
from data_prep.sources.tar import COMPRESSED

SUFFIXES = (".zip", ".tar", *COMPRESSED)


@dataclass(frozen=True)
class ArchiveFile:
    """One archive."""

    name: str
    """Relative to the source's folder."""
    prefix: str
    """What keys of its pictures begin with, to tell several archives apart: empty, or a name without a slash and a
    slash."""

    def broken(self) -> Reject:
        """That it could not be listed, or not to its end."""
        return Reject(key=hashed_key(self.name, "archive"), source=self.name, reason="broken archive")


def find_archives(source: str) -> tuple[Tree, tuple[ArchiveFile, ...]]:
    """One archive, those in a folder, or those that a pattern with ``*`` finds, sorted by name.

    Raises DataError if there is none.
    """
    if "*" in source:
        fixed, star, rest = source.partition("*")
        tree, begin = open_parent(fixed)
        names = [name for name in tree.glob(begin + star + rest) if is_archive(name)]
    elif is_archive(source):
        tree, name = open_parent(source)
        names = [name] if is_file(tree, name) else []
    else:
        tree = open_tree(source)
        names = [entry.name for entry in tree.entries("", is_archive) if entry.kind == "file"]
    if not names:
        raise DataError(f"source {source}: no such archive; give {', '.join(SUFFIXES)}, a folder or a pattern of them")
    return tree, told_apart(names)


def told_apart(names: Sequence[str]) -> tuple[ArchiveFile, ...]:
    """The archives, with prefixes if they are several. Raises DataError for a name that is no text."""
    for name in names:
        if not is_text(name):
            raise DataError(f"source: the archive {name!r} has a name that is not UTF-8; rename it")
    keys = Keys()
    return tuple(ArchiveFile(name, f"{keys.of(_one_suffix(name))}/" if len(names) > 1 else "") for name in names)


def is_archive(name: str) -> bool:
    """Whether the name ends like an archive's."""
    return name.lower().endswith(SUFFIXES)


def _one_suffix(name: str) -> str:
    """``set.tar.gz`` as ``set.tar-gz``, because only what follows the last dot is taken for the suffix."""
    suffix = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len)
    return f"{name[: -len(suffix)]}.{suffix[1:].replace('.', '-')}"
