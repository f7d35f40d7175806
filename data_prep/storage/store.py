"""Read and atomically write files of a folder on the local disk or at any fsspec URL."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import cast

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

from data_prep.errors import DataError
from data_prep.storage.atomic import atomic_open, partial_name


class Store:
    """Files addressed by their paths relative to a folder, separated by slashes.

    On the local disk a file is written to a temporary name, flushed and renamed. For a remote store it is written to a
    local temporary file, uploaded under a temporary name and moved; object stores move on the server side.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or url
        self.fs, root = fsspec.core.url_to_fs(self.url)
        self.root = str(root).rstrip("/")
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    def url_of(self, name: str) -> str:
        """Return the full path or URL of a file, for messages."""
        return f"{self.url}/{name}"

    def exists(self, name: str) -> bool:
        """Return whether the file exists."""
        return bool(self.fs.exists(self._path(name)))

    def size(self, name: str) -> int | None:
        """Return the size of the file in bytes, or None if it does not exist."""
        try:
            return int(self.fs.size(self._path(name)))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        """Read a whole file. Raises FileNotFoundError or another OSError."""
        return bytes(self.fs.cat_file(self._path(name)))

    def open(self, name: str) -> BufferedRandom:
        """Open a file for reading, with random access."""
        return cast("BufferedRandom", self.fs.open(self._path(name), "rb"))

    def local_path(self, name: str) -> str:
        """Return the path of a file on the local disk. Raises DataError if the store is remote."""
        if not self.is_local:
            raise DataError(f"{self.url_of(name)} must be on the local disk to be memory-mapped; copy the folder")
        return self._path(name)

    def listdir(self, folder: str) -> list[str]:
        """List the paths of the files and folders in a folder (empty: the root), sorted; empty if it does not exist."""
        try:
            listed = self.fs.ls(self._path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(f"{folder}/{str(path).rstrip('/').rpartition('/')[2]}".lstrip("/") for path in listed)

    @contextmanager
    def atomic_open(self, name: str) -> Iterator[BufferedRandom]:
        """Open a file for writing and reading back; it appears under its name when the block ends without error."""
        if self.is_local:
            path = Path(self._path(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(path) as file:
                yield file
            return
        with tempfile.NamedTemporaryFile() as tmp_file:
            yield cast("BufferedRandom", tmp_file)
            tmp_file.flush()
            tmp_name = partial_name(self._path(name))
            self.fs.makedirs(self.fs._parent(tmp_name), exist_ok=True)
            try:
                self.fs.put_file(tmp_file.name, tmp_name)
                self.fs.mv(tmp_name, self._path(name))
            except BaseException:
                with suppress(Exception):  # a remote store raises exceptions of its own
                    self.fs.rm_file(tmp_name)
                raise

    def write(self, name: str, data: bytes | str) -> None:
        """Write a file that appears only when it is complete."""
        with self.atomic_open(name) as file:
            file.write(data.encode() if isinstance(data, str) else data)

    def move(self, old: str, new: str) -> None:
        """Rename a file, replacing an existing one."""
        if self.is_local:
            target = Path(self._path(new))
            target.parent.mkdir(parents=True, exist_ok=True)
            Path(self._path(old)).replace(target)
        else:
            self.fs.mv(self._path(old), self._path(new))

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        if self.exists(name):
            self.fs.rm_file(self._path(name))

    def delete_folder(self, folder: str) -> None:
        """Remove a folder with its content, if it exists."""
        if self.is_local:
            shutil.rmtree(self._path(folder), ignore_errors=True)
        elif self.exists(folder):
            self.fs.rm(self._path(folder), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"
