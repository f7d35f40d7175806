"""A folder, here or at any URL that fsspec opens, in which files appear whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import cast

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

from data_prep.errors import DataError
from data_prep.storage.atomic import atomic_open, partial_name


class Store:
    """Files by their names relative to the folder; names use slashes.

    On a local disk a file is written aside, flushed and renamed. Elsewhere it is made in a local temporary file, sent
    under another name and moved: an object store does that on its own side.
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
        """The file's full name, for messages."""
        return f"{self.url}/{name}"

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return bool(self.fs.exists(self._path(name)))

    def size(self, name: str) -> int | None:
        """Bytes of the file, None if it is not there."""
        try:
            return int(self.fs.size(self._path(name)))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError or another OSError."""
        return bytes(self.fs.cat_file(self._path(name)))

    def open(self, name: str) -> BufferedRandom:
        """The file, to be read at any position."""
        return cast("BufferedRandom", self.fs.open(self._path(name), "rb"))

    def local_path(self, name: str) -> str:
        """The file on this machine's disk. Raises DataError if the folder is elsewhere."""
        if not self.is_local:
            raise DataError(f"{self.url_of(name)} must be on a disk here, to be mapped into memory; copy the folder")
        return self._path(name)

    def listdir(self, folder: str) -> list[str]:
        """Names of what is in a folder (the store's own, if empty), sorted; none if it is not there."""
        try:
            listed = self.fs.ls(self._path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(f"{folder}/{str(path).rstrip('/').rpartition('/')[2]}".lstrip("/") for path in listed)

    @contextmanager
    def atomic_open(self, name: str) -> Iterator[BufferedRandom]:
        """A file to write and read back, which appears under its name when the block has ended well."""
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
            self.fs.put_file(tmp_file.name, tmp_name)
            self.fs.mv(tmp_name, self._path(name))

    def write(self, name: str, data: bytes | str) -> None:
        """Write a file that appears only when it is whole."""
        with self.atomic_open(name) as file:
            file.write(data.encode() if isinstance(data, str) else data)

    def move(self, old: str, new: str) -> None:
        """Give a file another name; one that has the name already is replaced."""
        if self.is_local:
            target = Path(self._path(new))
            target.parent.mkdir(parents=True, exist_ok=True)
            Path(self._path(old)).replace(target)
        else:
            self.fs.mv(self._path(old), self._path(new))

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        if self.exists(name):
            self.fs.rm_file(self._path(name))

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and all in it, if it is there."""
        if self.is_local:
            shutil.rmtree(self._path(folder), ignore_errors=True)
        elif self.exists(folder):
            self.fs.rm(self._path(folder), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"
