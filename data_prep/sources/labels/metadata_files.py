"""Columns of images from metadata files beside them, the convention of ``imagefolder`` of Hugging Face ``datasets``."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from data_prep.config import SourceConfig
from data_prep.errors import DataError
from data_prep.sources.labels.path_table import PathTable
from data_prep.sources.labels.side_tables import (
    DEFAULT_CAPTION_COLUMNS,
    NAME_COLUMN,
    Columns,
    index_rows,
    reraise_errors,
    table_rows,
)


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
        return self.rows.find_exact(path.removeprefix(f"{self.folder}/"))


def load_metadata(
    paths: Iterable[str], read: Callable[[str], bytes], options: SourceConfig, label: str
) -> dict[str, Metadata]:
    """Load metadata files, by folder; several files of a folder are one table.

    ``read`` returns the content of a file, ``label`` names the source in messages. Raises DataError if a file cannot be
    read or lacks the column of file names.
    """
    rows_of = dict[str, list[dict[str, Any]]]()
    for path in paths:
        with reraise_errors(f"source {label}{path}", "it, or leave it out with data.read.exclude"):
            for row in table_rows(read(path), path.lower(), options):
                if NAME_COLUMN not in row:
                    raise DataError(
                        f"source {label}{path} has no column {NAME_COLUMN!r} with the names of the images; add it, or "
                        "leave the file out with data.read.exclude"
                    )
                rows_of.setdefault(path.rpartition("/")[0], []).append(row)
    return {folder: _index(folder, rows, options, label) for folder, rows in rows_of.items()}


def _index(folder: str, rows: list[dict[str, Any]], options: SourceConfig, label: str) -> Metadata:
    found = (name for name in DEFAULT_CAPTION_COLUMNS if any(name in row for row in rows))
    column = options.caption_column or next(found, None)
    with reraise_errors(f"source {label}{folder}", "its metadata"):
        named = ((str(row[NAME_COLUMN] or ""), row, NAME_COLUMN) for row in rows)
        return Metadata(folder, PathTable(index_rows(named, column)), column)


def metadata_above(path: str, tables: Mapping[str, Metadata]) -> list[Metadata]:
    """Return the metadata, by folder, that may describe the image at a path, the nearest first."""
    found = list[Metadata]()
    while tables and path:
        path = path.rpartition("/")[0]
        if path in tables:
            found.append(tables[path])
    return found
