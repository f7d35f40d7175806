"""Columns of images from metadata files beside them, the convention of ``imagefolder`` of Hugging Face ``datasets``."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from data_prep.config import SourceConfig
from data_prep.errors import DataError
from data_prep.sources.path_table import PathTable
from data_prep.sources.side_tables import (
    DEFAULT_CAPTION_COLUMNS,
    NAME_COLUMN,
    TABLE_SUFFIXES,
    Columns,
    index_rows,
    reraise_errors,
    table_rows,
)

METADATA_NAMES = tuple(f"metadata{suffix}" for suffix in TABLE_SUFFIXES)
"""Names of metadata files."""


def is_metadata_file(path: str) -> bool:
    """Return whether the file has the name of a metadata file."""
    return path.rpartition("/")[2].lower() in METADATA_NAMES


@dataclass(frozen=True)
class Metadata:
    """Metadata of the images of one folder and its subfolders."""

    folder: str
    """Path of the folder, relative to the source."""
    rows: PathTable[Columns]
    """Columns by path relative to the folder."""
    caption_column: str | None
    """Column with the captions, if there is one."""

    def find(self, path: str) -> Columns | None:
        """Return the columns of the image at a path relative to the source."""
        return self.rows.find_exact(path.removeprefix(f"{self.folder}/") if self.folder else path)


def load_metadata(
    folder: str, names: Iterable[str], read: Callable[[str], bytes], options: SourceConfig, label: str
) -> Metadata | None:
    """Load the metadata files of a folder, or return None if there is none.

    ``read`` returns the content of a file, ``label`` is the source in messages. Raises DataError if a file cannot be
    read or lacks the column of file names.
    """
    rows = list[dict[str, Any]]()
    for name in names:
        path = f"{folder}/{name}".lstrip("/")
        with reraise_errors(f"source {label}{path}", "it, or leave it out with data.read.exclude"):
            for row in table_rows(read(path), name.lower(), options):
                if NAME_COLUMN not in row:
                    raise DataError(
                        f"source {label}{path} has no column {NAME_COLUMN!r} with the names of the images; add it, or "
                        "leave the file out with data.read.exclude"
                    )
                rows.append(row)
    if not rows:
        return None
    found = (name for name in DEFAULT_CAPTION_COLUMNS if any(name in row for row in rows))
    column = options.caption_column or next(found, None)
    with reraise_errors(f"source {label}{folder}", "its metadata"):
        named = ((str(row[NAME_COLUMN] or ""), row, NAME_COLUMN) for row in rows)
        return Metadata(folder, PathTable(index_rows(named, column)), column)
