"""A folder at any URL that fsspec opens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from data_prep.sources.entries import MAX_FILE_BYTES, Entry, as_oserror, listing_errors

CHANGE_MARKS = ("etag", "ETag", "md5Hash", "mtime", "last_modified", "LastModified", "created")
"""Where fsspec's file systems say that a file changed, the surest first."""


@dataclass(frozen=True)
class RemoteTree:
    """At a URL."""

    url: str
    fs: Any
    root: str

    def entries(self, folder: str, wanted: Callable[[str], bool]) -> list[Entry]:
        """As in Tree."""
        path = self._path(folder)
        with listing_errors(f"{self.url}/{folder}".rstrip("/")), as_oserror(path):
            listed = [_remote_entry(info) for info in self.fs.ls(path, detail=True, refresh=True) if _below(info, path)]
        return sorted(
            (entry for entry in listed if entry.kind == "folder" or wanted(entry.name)), key=lambda entry: entry.name
        )

    def names(self) -> Iterator[str]:
        """As in Tree."""
        return (entry.name for entry in self.entries("", lambda _: True))

    def entry(self, name: str) -> Entry:
        """As in Tree."""
        with as_oserror(self._path(name)):
            return _remote_entry(self.fs.info(self._path(name)))

    def real(self, folder: str) -> object:
        """The path: stores have no links."""
        return folder

    def glob(self, pattern: str) -> list[str]:
        """As in Tree."""
        with listing_errors(f"{self.url}/{pattern}"), as_oserror(self.url):
            return sorted(str(path)[len(self.root) :].lstrip("/") for path in self.fs.glob(self._path(pattern)))

    def read(self, name: str, size: int = MAX_FILE_BYTES + 1, start: int = 0) -> bytes:
        """As in Tree."""
        if size == 0:
            return b""
        with as_oserror(self._path(name)):
            # A store may send all of the file, whatever part is asked for.
            return bytes(self.fs.cat_file(self._path(name), start=start, end=start + size))[:size]

    def open(self, name: str) -> BinaryIO:
        """As in Tree."""
        with as_oserror(self._path(name)):
            return cast("BinaryIO", self.fs.open(self._path(name), "rb"))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")


def _remote_entry(info: dict[str, Any]) -> Entry:
    kind = {"directory": "folder", "file": "file"}.get(info["type"], "other")
    size = int(info.get("size") or 0)
    mark = next((str(info[mark]) for mark in CHANGE_MARKS if info.get(mark)), "")
    return Entry(_name(info), kind, size, f"{size}-{mark}")  # type: ignore[arg-type]


def _name(info: dict[str, Any]) -> str:
    return str(info["name"]).rstrip("/").rpartition("/")[2]


def _below(info: dict[str, Any], folder: str) -> bool:
    """Whether it is in the folder: object stores list a marker for the folder itself beside what it holds."""
    return str(info["name"]).strip("/") != folder.strip("/")
