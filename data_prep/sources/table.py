"""Read a table with a column of image paths or URLs (.csv, .tsv or .parquet) as a stream."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.credentials import redact
from data_prep.errors import DataError
from data_prep.records import Record, Reject
from data_prep.sources.arrow_rows import arrow_rows
from data_prep.sources.columns import (
    parse_scalar,
    record_from_row,
    require_columns,
    root_column,
)
from data_prep.sources.fetch import fetch, version_of
from data_prep.sources.filesystem import FileTree, open_parent
from data_prep.sources.names import escape, hashed_key, row_key, split_suffix
from data_prep.sources.text import TextError, decode_escaped, open_text
from e4t_errors import ConfigError

ROW_BATCH_SIZE = 1024
"""Rows of a parquet file that are held in memory at a time."""
Row = dict[str, Any]


@dataclass(frozen=True)
class TableSource:
    """One image per row; the image file is fetched when it is read."""

    tree: FileTree
    """Folder of the table; relative image paths start there."""
    name: str
    """File name of the table."""
    options: SourceConfig

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "TableSource":
        """Build the source from the configuration."""
        tree, name = open_parent(config.source)
        return cls(tree, name, config.source_options)

    def __iter__(self) -> Iterator[Record | Reject]:
        """List the rows in order. Keys contain path and row number, because several rows may have the same path.

        Raises DataError if the table cannot be read and ConfigError if it lacks a configured column.
        """
        for row, cells in enumerate(_read_rows(self.tree, self.name, self.options)):
            yield self._to_record(row, cells)

    def read(self, record: Record) -> bytes:
        """Read the file at the path or URL. Raises OSError if that fails, SampleRejected if it is too large."""
        return fetch(self.tree, str(record.location[0]))

    def caption(self, record: Record) -> str | None:
        """Return the caption from the caption column."""
        return record.caption

    def _to_record(self, row: int, cells: Row) -> Record | Reject:
        path = str(cells.get(self.options.image_column) or "").strip()
        if not path:
            return Reject(key=row_key(row), source=f"{self.name} row {row}", reason="no path in row")
        try:
            path = decode_escaped(path, self.options.fallback_encoding)
        except TextError as error:
            source = redact(path)
            key = hashed_key(_key_name(source), f"row {row}")
            return Reject(key=key, source=escape(source), reason="name is not UTF-8", cause=str(error))
        source = redact(path)  # credentials of a URL must not reach keys, shards or reports
        key = hashed_key(_key_name(source), f"row {row}")
        return record_from_row(
            cells, self.options, key=key, source=source, location=(path,), version=version_of(self.tree, path)
        )


def parquet_text_columns(config: PrepareConfig) -> list[str]:
    """Return the names of the string columns of a parquet file. Raises DataError if it cannot be read."""
    tree, name = open_parent(config.source)
    with _reraise_read_errors(f"{tree.url}/{name}"), tree.open(name) as file:
        schema = pyarrow.parquet.read_schema(file)
        return [field.name for field in schema if _is_text_type(field.type)]


def _read_rows(tree: FileTree, name: str, options: SourceConfig) -> Iterator[Row]:
    url = f"{tree.url}/{name}"
    with _reraise_read_errors(url), tree.open(name) as file:
        if name.lower().endswith(".parquet"):
            table = pyarrow.parquet.ParquetFile(file)
            names, labels = table.schema_arrow.names, (options.identity_column, options.caption_column)
            nested = {root_column(label, names) for label in labels if label}  # lists and structs, too
            columns = [
                field.name for field in table.schema_arrow if _is_scalar_type(field.type) or field.name in nested
            ]
            require_columns(f"table {url}", columns, options)
            batches = table.iter_batches(ROW_BATCH_SIZE, columns=columns)
            yield from chain.from_iterable(map(arrow_rows, batches))
            return
        lines = open_text(file)
        rows = csv.DictReader(lines, delimiter="\t" if name.lower().endswith(".tsv") else ",")
        require_columns(f"table {url}", rows.fieldnames or [], options)
        text_labels = (options.image_column, options.identity_column, options.caption_column)
        text_columns = {root_column(label, rows.fieldnames or []) for label in text_labels if label}
        for row in rows:
            # csv puts the surplus fields of a row that is too long under the key None.
            yield {name: cell if name in text_columns else parse_scalar(cell) for name, cell in row.items() if name}


def _key_name(path: str) -> str:
    """Return the path, or the URL without scheme and query, without suffix."""
    path = path.partition("://")[2].partition("?")[0] if "://" in path else path
    return split_suffix(str(PurePosixPath(path)))[0]


def _is_scalar_type(arrow_type: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    types = pyarrow.types
    return (
        _is_text_type(arrow_type)
        or types.is_integer(arrow_type)
        or types.is_floating(arrow_type)
        or types.is_boolean(arrow_type)
    )


def _is_text_type(arrow_type: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    types = pyarrow.types
    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    return bool(types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_string_view(arrow_type))


@contextmanager
def _reraise_read_errors(url: str) -> Iterator[None]:
    """Convert exceptions of reading the table to a DataError of one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"source {url}: no such table; give a .csv, .tsv or .parquet as data.source") from error
    except (ConfigError, DataError):
        raise
    except Exception as error:  # corrupt tables and failing networks raise nearly any exception
        raise DataError(f"source {url} cannot be read ({error}); repair the table") from error
