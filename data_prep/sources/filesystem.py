"""Read folders on the local disk or at any fsspec URL: list one folder at a time, read single files.

``RemoteTree`` is a thin layer over fsspec's ``DirFileSystem``. The local disk has a class of its own, because fsspec's
``LocalFileSystem`` lists links to folders and files as "other" (linked folders would be skipped), has no device number
to detect loops of links with, opens pipes (which blocks), and takes as long to import as listing a small folder.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, cast

from data_prep.errors import DataError

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


@contextmanager
def reraise_as_oserror(label: str) -> Iterator[None]:
    """Convert the exceptions of remote file systems, which have no common base class, to OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{label}: {error!r}") from error


@contextmanager
def reraise_listing_errors(label: object) -> Iterator[None]:
    """Convert an OSError to a DataError of one line that names the folder or file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or repr(error)
        raise DataError(f"source {label} cannot be listed ({reason}); make it readable or move it away") from error


class FileTree(Protocol):
    """Files addressed by their paths relative to a root folder.

    Implementations are plain data, because sources are pickled and sent to worker processes.
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
        """Look up one file or folder. Raises OSError if it does not exist."""

    def inode_key(self, folder: str) -> object:
        """Return a value that is equal for all paths to the same folder, to detect loops of links. Raises DataError."""

    def glob(self, pattern: str) -> list[str]:
        """List the files that match a pattern with ``*``, sorted. Raises DataError."""

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0) -> bytes:
        """Read at most ``size`` bytes from offset ``start``. Raises OSError."""

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading, with random access. Raises OSError."""


def open_tree(url: str) -> FileTree:
    """Return the tree at a path or URL; the folder need not exist. Raises DataError for an unknown URL scheme."""
    if is_local(url):
        return LocalTree(expand_home(url.removeprefix("file://")))
    import fsspec.core  # imported late: the local disk does without it
    from fsspec.implementations.dirfs import DirFileSystem

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise DataError(f"source {url} cannot be opened ({error}); check data.source") from error
    return RemoteTree(url.rstrip("/"), DirFileSystem(path=str(root) or "/", fs=fs))


def expand_home(path: str) -> str:
    """Replace ``~`` or ``~user`` at the beginning of a local path, unless there is a folder of that name."""
    first = path.partition("/")[0]
    if not first.startswith("~") or Path(first).exists():
        return path
    try:
        return str(Path(first).expanduser()) + path[len(first) :]
    except RuntimeError:  # there is no such user
        return path


def open_parent(url: str) -> tuple[FileTree, str]:
    """Split the path or URL of a file into the tree of its folder and the file's name in it."""
    folder, slash, name = url.rpartition("/")
    if folder.endswith(":/"):  # memory://file
        folder += "/"
    return open_tree(folder or slash or "."), name


def is_local(url: str) -> bool:
    """Return whether this is a path on the local disk rather than a URL of a remote store."""
    return url.startswith("file://") or not ("://" in url or "::" in url)


def is_file(tree: FileTree, name: str) -> bool:
    """Return whether the file exists. Raises DataError if it cannot be looked up."""
    return _entry_kind(tree, name) == "file"


def is_folder(tree: FileTree) -> bool:
    """Return whether the root folder exists. Raises DataError if it cannot be looked up."""
    return _entry_kind(tree, "") == "folder"


def _entry_kind(tree: FileTree, name: str) -> str | None:
    with reraise_listing_errors(f"{tree.url}/{name}".rstrip("/")):
        try:
            return tree.entry(name).kind
        except (FileNotFoundError, NotADirectoryError):
            return None


@dataclass(frozen=True)
class LocalTree:
    """A folder on the local disk; links are followed."""

    root: str

    @property
    def url(self) -> str:
        """Path of the root folder."""
        return self.root

    def entries(self, folder: str, needs_stat: Callable[[str], bool]) -> list[Entry]:
        """List a folder; see FileTree."""
        with reraise_listing_errors(self._path(folder)), os.scandir(self._path(folder)) as scanned:
            return sorted(
                (
                    _local_entry(Path(entry.path))
                    if _is_folder(entry) or needs_stat(entry.name)
                    else Entry(entry.name, "file", 0, "")
                    for entry in scanned
                ),
                key=lambda entry: entry.name,
            )

    def names(self) -> Iterator[str]:
        """Yield the names in the root folder; see FileTree."""
        with reraise_listing_errors(self.root), os.scandir(self.root) as scanned:
            yield from (entry.name for entry in scanned)

    def entry(self, name: str) -> Entry:
        """Look up one file or folder; see FileTree."""
        path = self._path(name)
        path.stat()
        return _local_entry(path)

    def inode_key(self, folder: str) -> object:
        """Return the device and inode numbers of a folder; see FileTree."""
        with reraise_listing_errors(self._path(folder)):
            info = self._path(folder).stat()
            return info.st_dev, info.st_ino

    def glob(self, pattern: str) -> list[str]:
        """List the files that match a pattern; see FileTree."""
        root = Path(self.root)
        return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern) if path.is_file())

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0) -> bytes:
        """Read part of a file; see FileTree."""
        with self.open(name) as file:
            size = min(size, os.fstat(file.fileno()).st_size - start)
            if size <= 0:
                return b""
            file.seek(start)
            return file.read(size)

    def open(self, name: str) -> BinaryIO:
        """Open a regular file; see FileTree. Pipes and devices are refused, because opening them may block."""
        path = self._path(name)
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(f"{path} is not a file")
        return path.open("rb")

    def _path(self, name: str) -> Path:
        return Path(self.root, name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        if entry.is_symlink():  # a link that leads to itself
            return False
        raise


def _local_entry(path: Path) -> Entry:
    try:
        info = path.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError) or path.is_symlink():
            return Entry(path.name, "other", 0, "")
        raise
    kind = {stat.S_IFDIR: "folder", stat.S_IFREG: "file"}.get(stat.S_IFMT(info.st_mode), "other")
    return Entry(path.name, kind, info.st_size, f"{info.st_size}-{info.st_mtime_ns}")  # type: ignore[arg-type]


VERSION_FIELDS = ("etag", "ETag", "md5Hash", "mtime", "last_modified", "LastModified", "created")
"""Fields of fsspec's file information that change with the content, the most reliable first."""


@dataclass(frozen=True)
class RemoteTree:
    """A folder at a URL."""

    url: str
    fs: Any
    """``DirFileSystem`` of the folder."""

    def entries(self, folder: str, needs_stat: Callable[[str], bool]) -> list[Entry]:
        """List a folder; see FileTree."""
        label = f"{self.url}/{folder}".rstrip("/")
        with reraise_listing_errors(label), reraise_as_oserror(label):
            infos = self.fs.ls(folder, detail=True, refresh=True)
            # Object stores list a marker for the folder itself.
            listed = [_remote_entry(info) for info in infos if str(info["name"]).strip("/") != folder.strip("/")]
        return sorted(listed, key=lambda entry: entry.name)

    def names(self) -> Iterator[str]:
        """Yield the names in the root folder; see FileTree."""
        return (entry.name for entry in self.entries("", lambda _: True))

    def entry(self, name: str) -> Entry:
        """Look up one file or folder; see FileTree."""
        with reraise_as_oserror(self._label(name)):
            return _remote_entry(self.fs.info(name))

    def inode_key(self, folder: str) -> object:
        """Return the path: remote stores have no links; see FileTree."""
        return folder

    def glob(self, pattern: str) -> list[str]:
        """List the files that match a pattern; see FileTree."""
        with reraise_listing_errors(self._label(pattern)), reraise_as_oserror(self.url):
            return sorted(str(path).lstrip("/") for path in self.fs.glob(pattern))

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0) -> bytes:
        """Read part of a file; see FileTree."""
        if size == 0:
            return b""
        with reraise_as_oserror(self._label(name)):
            # Some servers ignore the range and send the whole file.
            return bytes(self.fs.cat_file(name, start=start, end=start + size))[:size]

    def open(self, name: str) -> BinaryIO:
        """Open a file; see FileTree."""
        with reraise_as_oserror(self._label(name)):
            return cast("BinaryIO", self.fs.open(name, "rb"))

    def _label(self, name: str) -> str:
        return f"{self.url}/{name}"


def _remote_entry(info: dict[str, Any]) -> Entry:
    kind = {"directory": "folder", "file": "file"}.get(info["type"], "other")
    size = int(info.get("size") or 0)
    tag = next((str(info[field]) for field in VERSION_FIELDS if info.get(field)), "")
    name = str(info["name"]).rstrip("/").rpartition("/")[2]
    return Entry(name, kind, size, f"{size}-{tag}")  # type: ignore[arg-type]
