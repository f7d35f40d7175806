"""Read folders on the local disk or at any URL: list one folder at a time, read single files.

Every read of a source goes through a ``FileTree``: ``LocalTree``, ``HttpTree`` or, for every other store that fsspec
knows, ``RemoteTree``. All of them repeat reads that fail for reasons that may pass, as ``data.read`` says.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from data_prep.config import ReadConfig
from data_prep.errors import SampleRejected
from data_prep.sources.files.failures import ReadFailed, listing_errors
from data_prep.sources.files.versions import changed

MAX_FILE_BYTES = 512 * 2**20
"""Larger files are rejected: they are not images, and a file is held in memory while it is processed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder of a listing."""

    name: str
    """Base name, without the folder."""
    kind: Literal["folder", "file", "other"]
    """``other`` must not be opened: a pipe, a socket, a device or a broken link."""
    size: int
    """File size in bytes."""
    version: str
    """Size and modification time or entity tag; it differs after the file has changed."""


def check_version(label: object, planned: str, found: str) -> None:
    """Raise SourceChangedError if a version is not the planned one; an empty one is not compared."""
    if planned and found != planned:
        raise changed(label, f"{planned} then, {found} now")


def limit_size(data: bytes) -> bytes:
    """Return the data unchanged. Raises SampleRejected if it is larger than ``MAX_FILE_BYTES``."""
    if len(data) > MAX_FILE_BYTES:
        raise SampleRejected("file too large")
    return data


class FileTree(Protocol):
    """Files addressed by their paths relative to a root folder.

    Implementations are plain data, because sources are pickled and sent to worker processes. Methods that read take the
    version that a file had when it was listed, and raise SourceChangedError if it is another one or gone.
    """

    @property
    def url(self) -> str:
        """Path or URL of the root folder, for messages."""

    def entries(self, folder: str, needs_stat: Callable[[str], bool]) -> list[Entry]:
        """List the subfolders and files of a folder, sorted by name. Raises DataError.

        Files whose names ``needs_stat`` does not accept may have no size and version, and count as files in any case.
        """

    def names(self) -> Iterator[str]:
        """Yield the names in the root folder, unsorted. Raises DataError."""

    def entry(self, name: str) -> Entry:
        """Look up one file or folder. Raises ReadFailed if it does not exist."""

    def inode_key(self, folder: str) -> object:
        """Return a value that is equal for all paths to the same folder, to detect loops of links. Raises DataError."""

    def glob(self, pattern: str) -> list[str]:
        """List the files that match a pattern with ``*``, sorted. Raises DataError."""

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0, *, version: str = "") -> bytes:
        """Read at most ``size`` bytes from offset ``start``. Raises ReadFailed."""

    def read_image(self, name: str, version: str = "") -> bytes:
        """Read a whole image file. Raises ReadFailed, and SampleRejected if it must not be used or is too large."""

    def open(self, name: str, version: str = "") -> BinaryIO:
        """Open a file for reading, with random access. Raises ReadFailed, and so do reads from the file."""


def open_tree(url: str, config: ReadConfig | None = None) -> FileTree:
    """Return the tree at a path or URL; the folder need not exist. Raises DataError if the store cannot be opened."""
    config = config or ReadConfig()
    # Imported late: each needs this module, and the local disk does without the libraries of the others.
    if is_local(url):
        from data_prep.sources.files.local_tree import LocalTree

        return LocalTree(expand_home(url.removeprefix("file://")), config)
    if is_http(url):
        from data_prep.sources.files.http_tree import HttpTree

        return HttpTree(url.rstrip("/"), config)
    from data_prep.sources.files.remote_tree import RemoteTree

    with listing_errors(url):
        return RemoteTree.from_url(url, config)


def expand_home(path: str) -> str:
    """Replace ``~`` or ``~user`` at the beginning of a local path, unless there is a folder of that name."""
    first = path.partition("/")[0]
    if not first.startswith("~") or Path(first).exists():
        return path
    try:
        return str(Path(first).expanduser()) + path[len(first) :]
    except RuntimeError:  # there is no such user
        return path


def open_parent(url: str, config: ReadConfig | None = None) -> tuple[FileTree, str]:
    """Split the path or URL of a file into the tree of its folder and the file's name in it."""
    path, chain = split_chain(url)
    folder, slash, name = path.rpartition("/")
    if folder.endswith(":/"):  # memory://file
        folder += "/"
    return open_tree((folder or slash or ".") + chain, config), name


def split_chain(url: str) -> tuple[str, str]:
    """Split ``zip://a.csv::https://host/b.zip`` into the path in the archive and the rest, which starts with ``::``."""
    if is_http(url):  # the address may contain colons
        return url, ""
    path, colons, rest = url.partition("::")
    return path, colons + rest


def is_local(url: str) -> bool:
    """Return whether this is a path on the local disk rather than a URL of a remote store."""
    return url.startswith("file://") or not ("://" in url or "::" in url)


def is_http(url: str) -> bool:
    """Return whether this is the URL of an HTTP server, not chained to another store."""
    return url.lower().startswith(("http://", "https://"))


def is_file(tree: FileTree, name: str) -> bool:
    """Return whether the file exists. Raises DataError if it cannot be looked up."""
    return _entry_kind(tree, name) == "file"


def is_folder(tree: FileTree) -> bool:
    """Return whether the root folder exists. Raises DataError if it cannot be looked up."""
    return _entry_kind(tree, "") == "folder"


def _entry_kind(tree: FileTree, name: str) -> str | None:
    with listing_errors(f"{tree.url}/{name}".rstrip("/")):
        try:
            return tree.entry(name).kind
        except ReadFailed as failure:
            if failure.is_missing:
                return None
            raise
