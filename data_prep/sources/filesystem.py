"""Read folders on the local disk or at any URL: list one folder at a time, read single files.

Every read of a source goes through a ``FileTree``: ``LocalTree``, ``HttpTree`` or, for every other store that fsspec
knows, ``RemoteTree``. All of them repeat reads that fail for reasons that may pass, as ``data.read`` says. The local
disk has a class of its own, because fsspec's ``LocalFileSystem`` lists links to folders and files as "other" (linked
folders would be skipped), has no device number to detect loops of links with, opens pipes (which blocks), and takes as
long to import as listing a small folder.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from data_prep.config import ReadConfig
from data_prep.errors import SampleRejected, SourceChangedError
from data_prep.sources.failures import INCOMPLETE, MISSING, NOT_A_FILE, ReadFailed, listing_errors, missing_is_change
from data_prep.sources.range_file import open_ranges
from data_prep.sources.retrying import with_retries
from data_prep.sources.versions import changed

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
    if is_local(url):
        return LocalTree(expand_home(url.removeprefix("file://")), config)
    if is_http(url):
        from data_prep.sources.http_tree import HttpTree  # imported late: the local disk does without it

        return HttpTree(url.rstrip("/"), config)
    from data_prep.sources.remote_tree import RemoteTree

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
    folder, slash, name = url.rpartition("/")
    if folder.endswith(":/"):  # memory://file
        folder += "/"
    return open_tree(folder or slash or ".", config), name


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


@dataclass(frozen=True)
class LocalTree:
    """A folder on the local disk; links are followed."""

    root: str
    config: ReadConfig = field(default_factory=ReadConfig)

    @property
    def url(self) -> str:
        """Path of the root folder."""
        return self.root

    def entries(self, folder: str, needs_stat: Callable[[str], bool]) -> list[Entry]:
        """List a folder; see FileTree."""
        path = self._path(folder)

        def scan() -> list[Entry]:
            with os.scandir(path) as scanned:
                return [
                    _local_entry(Path(entry.path))
                    if _is_folder(entry) or needs_stat(entry.name)
                    else Entry(entry.name, "file", 0, "")
                    for entry in scanned
                ]

        with listing_errors(path):
            return sorted(with_retries(self.config, path, scan), key=lambda entry: entry.name)

    def names(self) -> Iterator[str]:
        """Return the names in the root folder; see FileTree."""
        with listing_errors(self.root):
            return iter(with_retries(self.config, self.root, lambda: os.listdir(self.root)))  # noqa: PTH208

    def entry(self, name: str) -> Entry:
        """Look up one file or folder; see FileTree."""
        path = self._path(name)

        def look_up() -> Entry:
            path.stat()
            return _local_entry(path)

        return with_retries(self.config, path, look_up)

    def inode_key(self, folder: str) -> object:
        """Return the device and inode numbers of a folder; see FileTree."""
        path = self._path(folder)
        with listing_errors(path):
            info = with_retries(self.config, path, path.stat)
            return info.st_dev, info.st_ino

    def glob(self, pattern: str) -> list[str]:
        """List the files that match a pattern; see FileTree."""
        root = Path(self.root)

        def find() -> list[str]:
            return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern) if not path.is_dir())

        with listing_errors(root / pattern):
            return with_retries(self.config, root, find)

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0, *, version: str = "") -> bytes:
        """Read part of a file; see FileTree."""
        path = self._path(name)

        def attempt() -> bytes:
            with _open_regular(path, version) as file:
                wanted = min(size, os.fstat(file.fileno()).st_size - start)
                if wanted <= 0:
                    return b""
                file.seek(start)
                data = file.read(wanted)
            if len(data) < wanted:  # the file was cut in between
                raise ReadFailed(INCOMPLETE, f"{len(data)} of {wanted} bytes")
            return data

        with missing_is_change(path, version):
            return with_retries(self.config, path, attempt)

    def read_image(self, name: str, version: str = "") -> bytes:
        """Read an image file; see FileTree."""
        return limit_size(self.read(name, version=version))

    def open(self, name: str, version: str = "") -> BinaryIO:
        """Open a regular file; see FileTree."""
        path = self._path(name)
        with missing_is_change(path, version):
            file = with_retries(self.config, path, lambda: _open_regular(path, version))

        def read_at(offset: int, size: int) -> bytes:
            try:
                return os.pread(file.fileno(), size, offset)
            except OSError:
                return with_retries(self.config, path, lambda: os.pread(file.fileno(), size, offset))

        return open_ranges(read_at, os.fstat(file.fileno()).st_size, close=file.close)

    def _path(self, name: str) -> Path:
        return Path(self.root, name)


def _open_regular(path: Path, version: str) -> BinaryIO:
    """Open a file of the planned version. Pipes and devices are refused, because opening them may block."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ReadFailed(NOT_A_FILE, f"{path} is not a file", retryable=False)
        file = path.open("rb")
    except ValueError as error:  # a NUL in the path
        raise ReadFailed(MISSING, str(error), retryable=False) from error
    try:
        check_version(path, version, _version(os.fstat(file.fileno())))
    except SourceChangedError:
        file.close()
        raise
    return file


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
    return Entry(path.name, kind, info.st_size, _version(info))  # type: ignore[arg-type]


def _version(info: os.stat_result) -> str:
    return f"{info.st_size}-{info.st_mtime_ns}"
