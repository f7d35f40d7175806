"""Find the row of an image in a table keyed by path, although the table may start at another folder."""

from bisect import bisect_left
from collections.abc import Mapping
from functools import cached_property
from typing import Generic, TypeVar
from unicodedata import normalize

from data_prep.sources.names import split_suffix

Row = TypeVar("Row")


def normalize_path(path: str) -> str:
    """Return a path as keys of a ``PathTable`` are written: with slashes, without ``.`` parts, in Unicode form NFC."""
    parts = normalize("NFC", path.strip().replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", "."))


class PathTable(Generic[Row]):
    """Rows by image path.

    An image gets the row of its relative path, or else the row that shares the longest tail with it: rows may have
    fewer folders (CelebA lists file names) or more (FFHQ lists paths from an outer folder). If several rows with more
    folders end with the path of the image, none is taken. Rows may lack the suffix of the image.
    """

    def __init__(self, rows: Mapping[str, Row]) -> None:
        """Wrap rows by normalized path."""
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def find(self, path: str) -> Row | None:
        """Return the row of the image at a path relative to the source, or None."""
        if not self._rows:
            return None
        path = normalize_path(path)
        names = (path, split_suffix(path)[0])
        key = next((name for name in names if name in self._rows), None)
        if key is None:
            longer = next((keys for name in names if (keys := self._longer_keys(name))), [])
            if len(longer) > 1:
                return None
            key = longer[0] if longer else self._shorter_key(names)
        return None if key is None else self._rows[key]

    def find_exact(self, path: str) -> Row | None:
        """Return the row of exactly this path, or None."""
        return self._rows.get(normalize_path(path))

    def _shorter_key(self, names: tuple[str, str]) -> str | None:
        """Return the longest key that both names end with."""
        while "/" in names[0]:
            names = (names[0].partition("/")[2], names[1].partition("/")[2])
            for name in names:
                if name in self._rows:
                    return name
        return None

    def _longer_keys(self, name: str) -> list[str]:
        """Return keys that end with the name and have more folders; at most two."""
        prefix = _reversed(name) + "/"
        first = bisect_left(self._reversed_keys, prefix)
        found = self._reversed_keys[first : first + 2]
        return [_reversed(key) for key in found if key.startswith(prefix)]

    @cached_property
    def _reversed_keys(self) -> list[str]:
        """Keys with folders, with their parts in reverse order, sorted: those with the same tail are neighbors."""
        return sorted(_reversed(key) for key in self._rows if "/" in key)


def _reversed(path: str) -> str:
    return "/".join(reversed(path.split("/")))
