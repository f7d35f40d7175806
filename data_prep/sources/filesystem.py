"""A folder, here or at any URL that fsspec opens: list one folder of it, read one file."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, cast

from data_prep.errors import DataError

MAX_FILE_BYTES = 512 * 2**20
"""A larger file is not taken for a picture, nor held in memory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder holds."""

    name: str
    """Without the folder."""
    kind: Literal["folder", "file", "other"]
    """``other`` is what must not be opened: a pipe, a device, a link to nothing."""
    size: int
    """Bytes of a file."""
    version: str
    """Changes when the file does: size, and the time or tag that there is."""


@contextmanager
def reraise_as_oserror(label: str) -> Iterator[None]:
    """Turn what remote file systems raise, each in its own way, into an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{label}: {error!r}") from error


@contextmanager
def reraise_listing_errors(label: object) -> Iterator[None]:
    """Say in one line what cannot be listed."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or repr(error)
        raise DataError(f"source {label} cannot be listed ({reason}); make it readable or move it away") from error


class FileTree(Protocol):
    """Files by their names relative to a folder. Plain data, to be pickled to workers."""

    @property
    def url(self) -> str:
        """The folder, for messages."""

    def entries(self, folder: str, include: Callable[[str], bool]) -> list[Entry]:
        """Folders, and the files with wanted names, sorted by name. Raises DataError if it cannot be listed."""

    def names(self) -> Iterator[str]:
        """What the folder itself holds, as it comes. Raises DataError if it cannot be listed."""

    def entry(self, name: str) -> Entry:
        """One file or folder. Raises OSError if it is not there."""

    def inode_key(self, folder: str) -> object:
        """What all paths to one folder have in common, where there are links. Raises DataError."""

    def glob(self, pattern: str) -> list[str]:
        """Names of the files that a pattern with ``*`` finds, sorted. Raises DataError."""

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0) -> bytes:
        """At most ``size`` bytes from ``start`` on. Raises OSError."""

    def open(self, name: str) -> BinaryIO:
        """The file, to be read at any position. Raises OSError."""


def open_tree(url: str) -> FileTree:
    """The folder at a path or URL, which need not exist."""
    if is_local(url):
        return LocalTree(url.removeprefix("file://"))
    import fsspec.core  # as slow as all the rest of preparation together, and a disk does without

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise DataError(f"source {url} cannot be opened ({error}); check data.source") from error
    return RemoteTree(url.rstrip("/"), fs, str(root).rstrip("/"))


def open_parent(url: str) -> tuple[FileTree, str]:
    """The folder of a file, and the file's name in it."""
    folder, slash, name = url.rpartition("/")
    if folder.endswith(":/"):  # memory://file
        folder += "/"
    return open_tree(folder or slash or "."), name


def is_local(url: str) -> bool:
    """Whether this is a path on this machine's disk."""
    return url.startswith("file://") or not ("://" in url or "::" in url)


def is_file(tree: FileTree, name: str) -> bool:
    """Whether there is such a file. Raises DataError if that cannot be told."""
    return _entry_kind(tree, name) == "file"


def is_folder(tree: FileTree) -> bool:
    """Whether the folder is there. Raises DataError if that cannot be told."""
    return _entry_kind(tree, "") == "folder"


def _entry_kind(tree: FileTree, name: str) -> str | None:
    with reraise_listing_errors(f"{tree.url}/{name}".rstrip("/")):
        try:
            return tree.entry(name).kind
        except (FileNotFoundError, NotADirectoryError):
            return None


@dataclass(frozen=True)
class LocalTree:
    """On this machine's disk."""

    root: str

    @property
    def url(self) -> str:
        """The folder."""
        return self.root

    def entries(self, folder: str, include: Callable[[str], bool]) -> list[Entry]:
        """As in Tree; links are followed."""
        with reraise_listing_errors(self._path(folder)), os.scandir(self._path(folder)) as scanned:
            return sorted(
                (_local_entry(Path(entry.path)) for entry in scanned if _is_folder(entry) or include(entry.name)),
                key=lambda entry: entry.name,
            )

    def names(self) -> Iterator[str]:
        """As in Tree."""
        with reraise_listing_errors(self.root), os.scandir(self.root) as scanned:
            yield from (entry.name for entry in scanned)

    def entry(self, name: str) -> Entry:
        """As in Tree."""
        path = self._path(name)
        path.stat()
        return _local_entry(path)

    def inode_key(self, folder: str) -> object:
        """Device and number on it."""
        with reraise_listing_errors(self._path(folder)):
            info = self._path(folder).stat()
            return info.st_dev, info.st_ino

    def glob(self, pattern: str) -> list[str]:
        """As in Tree."""
        root = Path(self.root)
        return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern) if path.is_file())

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0) -> bytes:
        """As in Tree."""
        with self.open(name) as file:
            size = min(size, os.fstat(file.fileno()).st_size - start)
            if size <= 0:
                return b""
            file.seek(start)
            return file.read(size)

    def open(self, name: str) -> BinaryIO:
        """As in Tree. A pipe or device is not opened, which could take for ever."""
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
        if entry.is_symlink():  # to itself
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
"""Where fsspec's file systems say that a file changed, the surest first."""


@dataclass(frozen=True)
class RemoteTree:
    """At a URL."""

    url: str
    fs: Any
    root: str

    def entries(self, folder: str, include: Callable[[str], bool]) -> list[Entry]:
        """As in Tree."""
        path = self._path(folder)
        with reraise_listing_errors(f"{self.url}/{folder}".rstrip("/")), reraise_as_oserror(path):
            listed = [
                _remote_entry(info) for info in self.fs.ls(path, detail=True, refresh=True) if _is_inside(info, path)
            ]
        return sorted(
            (entry for entry in listed if entry.kind == "folder" or include(entry.name)), key=lambda entry: entry.name
        )

    def names(self) -> Iterator[str]:
        """As in Tree."""
        return (entry.name for entry in self.entries("", lambda _: True))

    def entry(self, name: str) -> Entry:
        """As in Tree."""
        with reraise_as_oserror(self._path(name)):
            return _remote_entry(self.fs.info(self._path(name)))

    def inode_key(self, folder: str) -> object:
        """The path: stores have no links."""
        return folder

    def glob(self, pattern: str) -> list[str]:
        """As in Tree."""
        with reraise_listing_errors(f"{self.url}/{pattern}"), reraise_as_oserror(self.url):
            return sorted(str(path)[len(self.root) :].lstrip("/") for path in self.fs.glob(self._path(pattern)))

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0) -> bytes:
        """As in Tree."""
        if size == 0:
            return b""
        with reraise_as_oserror(self._path(name)):
            # A store may send all of the file, whatever part is asked for.
            return bytes(self.fs.cat_file(self._path(name), start=start, end=start + size))[:size]

    def open(self, name: str) -> BinaryIO:
        """As in Tree."""
        with reraise_as_oserror(self._path(name)):
            return cast("BinaryIO", self.fs.open(self._path(name), "rb"))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")


def _remote_entry(info: dict[str, Any]) -> Entry:
    kind = {"directory": "folder", "file": "file"}.get(info["type"], "other")
    size = int(info.get("size") or 0)
    tag = next((str(info[mark]) for mark in VERSION_FIELDS if info.get(mark)), "")
    return Entry(_base_name(info), kind, size, f"{size}-{tag}")  # type: ignore[arg-type]


def _base_name(info: dict[str, Any]) -> str:
    return str(info["name"]).rstrip("/").rpartition("/")[2]


def _is_inside(info: dict[str, Any], folder: str) -> bool:
    """Whether it is in the folder: object stores list a marker for the folder itself beside what it holds."""
    return str(info["name"]).strip("/") != folder.strip("/")
