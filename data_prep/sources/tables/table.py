"""Read tables with a column of image paths or URLs (text or parquet) as a stream."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet

from data_prep.config import PrepareConfig, ReadConfig, SourceConfig
from data_prep.credentials import redact
from data_prep.errors import DataError
from data_prep.records import Ignored, Listed, Record, Reject
from data_prep.sources.archives.archive_files import expand_pattern, is_pattern
from data_prep.sources.files.failures import listing_errors
from data_prep.sources.files.fetch import fetch, version_of
from data_prep.sources.files.filesystem import FileTree, open_parent
from data_prep.sources.labels.text import TextError, decode_escaped, open_text
from data_prep.sources.names import escape, hashed_key, row_key, split_suffix
from data_prep.sources.selection import Selection
from data_prep.sources.tables.arrow_rows import arrow_rows
from data_prep.sources.tables.columns import record_from_row, require_columns, root_column
from data_prep.sources.tables.text_tables import Row, open_table, read_text_rows
from e4t_errors import ConfigError

ROW_BATCH_SIZE = 1024
"""Rows of a parquet file that are held in memory at a time."""
WHAT_TO_GIVE = "give a .csv, .tsv, .jsonl, .txt or .parquet as data.source"


@dataclass(frozen=True)
class TableSource:
    """One image per row of one or several tables; the image file is fetched when it is read."""

    tree: FileTree
    """Folder of the tables; relative image paths start there."""
    names: tuple[str, ...]
    """File names of the tables."""
    options: SourceConfig
    selection: Selection
    read_config: ReadConfig
    ignored: tuple[Ignored, ...] = ()
    """Other entries of the folder of the tables."""

    @classmethod
    def from_config(cls, config: PrepareConfig, ignored: tuple[Ignored, ...] = ()) -> "TableSource":
        """Build the source from the configuration. Raises DataError if there is no table."""
        tree, name = open_parent(config.source, config.read)
        names: list[str] | None = [name]
        if is_pattern(config.source):
            tree, names = expand_pattern(config.source, config.read)
        if not names:
            raise DataError(f"source {config.source}: no such table; {WHAT_TO_GIVE}")
        return cls(tree, tuple(names), config.source_options, Selection(config.read), config.read, ignored)

    def __iter__(self) -> Iterator[Listed]:
        """List the rows in order. Keys contain path and row number, because several rows may have the same path.

        Patterns of ``data.read`` apply to the path or URL of the image. Raises DataError if a table cannot be read and
        ConfigError if it lacks a configured column.
        """
        yield from self.ignored
        first_row = 0
        for name in self.names:
            number = -1
            for number, row in enumerate(_read_rows(self.tree, name, self.options)):
                yield self._to_entry(first_row + number, f"{name} row {number}", row)
            first_row += number + 1

    def read(self, record: Record) -> bytes:
        """Read the file at the path or URL; see Source."""
        return fetch(self.tree, str(record.location[0]), self.read_config, record.version)

    def caption(self, record: Record) -> str | None:
        """Return the caption from the caption column."""
        return record.caption

    def _to_entry(self, row: int, label: str, cells: Row | str) -> Listed:
        if isinstance(cells, str):
            return Reject(key=row_key(row), source=label, reason="malformed row", cause=cells)
        path = str(cells.get(self.options.image_column) or "").strip()
        if not path:
            return Reject(key=row_key(row), source=label, reason="no path in row")
        try:
            path = decode_escaped(path, self.options.fallback_encoding)
        except TextError as error:
            source = redact(path)
            key = hashed_key(_key_name(source), f"row {row}")
            return Reject(key=key, source=escape(source), reason="name is not UTF-8", cause=str(error))
        source = redact(path)  # credentials of a URL must not reach keys, shards or reports
        reason = self.selection.reason_to_exclude(path) or self.selection.reason_to_leave_out(path)
        if reason:
            return Ignored(source=escape(source), reason=reason)
        key = hashed_key(_key_name(source), f"row {row}")
        return record_from_row(
            cells,
            self.options,
            key=key,
            source=source,
            location=(path,),
            version=version_of(self.tree, path, self.read_config),
        )


def parquet_columns(tree: FileTree, name: str) -> dict[str, bool]:
    """Return whether each column of a parquet file, by name, holds text. Raises DataError if it cannot be read."""
    with _reraise_read_errors(f"{tree.url}/{name}"), tree.open(name) as file:
        return {field.name: _is_text_type(field.type) for field in pyarrow.parquet.read_schema(file)}


def _read_rows(tree: FileTree, name: str, options: SourceConfig) -> Iterator[Row | str]:
    """Yield the cells of each row by column, or why a row is malformed."""
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
        yield from read_text_rows(open_text(open_table(file, name), options.fallback_encoding), url, options)


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
        with listing_errors(url):
            yield
    except (ConfigError, DataError):
        raise
    except Exception as error:  # corrupt tables and failing networks raise nearly any exception
        raise DataError(f"source {url} cannot be read ({error}); repair the table") from error
