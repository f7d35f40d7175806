"""A folder, here or at any URL that fsspec opens: list one folder of it, read one file."""

from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from data_prep.errors import DataError
from data_prep.sources.entries import MAX_FILE_BYTES, Entry, listing_errors
from data_prep.sources.local_tree import LocalTree
from data_prep.sources.remote_tree import RemoteTree


class Tree(Protocol):
    """Files by their names relative to a folder. Plain data, to be pickled to workers."""

    @property
    def url(self) -> str:
        """The folder, for messages."""

    def entries(self, folder: str, wanted: Callable[[str], bool]) -> list[Entry]:
        """Folders, and the files with wanted names, sorted by name. Raises DataError if it cannot be listed."""

    def names(self) -> Iterator[str]:
        """What the folder itself holds, as it comes. Raises DataError if it cannot be listed."""

    def entry(self, name: str) -> Entry:
        """One file or folder. Raises OSError if it is not there."""

    def real(self, folder: str) -> object:
        """What all paths to one folder have in common, where there are links. Raises DataError."""

    def glob(self, pattern: str) -> list[str]:
        """Names of the files that a pattern with ``*`` finds, sorted. Raises DataError."""

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0) -> bytes:
        """At most ``size`` bytes from ``start`` on. Raises OSError."""

    def open(self, name: str) -> BinaryIO:
        """The file, to be read at any position. Raises OSError."""


def open_tree(url: str) -> Tree:
    """The folder at a path or URL, which need not exist."""
    if is_local(url):
        return LocalTree(url.removeprefix("file://"))
    import fsspec.core  # as slow as all the rest of preparation together, and a disk does without

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise DataError(f"source {url} cannot be opened ({error}); check data.source") from error
    return RemoteTree(url.rstrip("/"), fs, str(root).rstrip("/"))


def open_parent(url: str) -> tuple[Tree, str]:
    """The folder of a file, and the file's name in it."""
    folder, slash, name = url.rpartition("/")
    if folder.endswith(":/"):  # memory://file
        folder += "/"
    return open_tree(folder or slash or "."), name


def is_local(url: str) -> bool:
    """Whether this is a path on this machine's disk."""
    return url.startswith("file://") or not ("://" in url or "::" in url)


def is_file(tree: Tree, name: str) -> bool:
    """Whether there is such a file. Raises DataError if that cannot be told."""
    return _kind(tree, name) == "file"


def is_folder(tree: Tree) -> bool:
    """Whether the folder is there. Raises DataError if that cannot be told."""
    return _kind(tree, "") == "folder"


def _kind(tree: Tree, name: str) -> str | None:
    with listing_errors(f"{tree.url}/{name}".rstrip("/")):
        try:
            return tree.entry(name).kind
        except (FileNotFoundError, NotADirectoryError):
            return None
