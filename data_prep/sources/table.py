"""A table with a column of paths or URLs: .csv, .tsv or .parquet, read as a stream."""

import csv
import io
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
from data_prep.errors import ConfigError, DataError
from data_prep.records import Record, Reject
from data_prep.sources.columns import need_columns, number_or_text, row_item
from data_prep.sources.fetch import fetch, stamp_of
from data_prep.sources.filesystem import Tree, open_parent
from data_prep.sources.names import hashed_key, is_text, printable, row_key, split_suffix

ROWS_AT_ONCE = 1024
"""Of a parquet file, held in memory."""
Row = dict[str, Any]


@dataclass(frozen=True)
class TableSource:
    """A picture a row, fetched when it is read."""

    tree: Tree
    """The table's folder: paths in it are relative to that."""
    name: str
    settings: SourceConfig

    @classmethod
    def of(cls, config: PrepareConfig) -> "TableSource":
        """The configured source."""
        tree, name = open_parent(config.source)
        return cls(tree, name, config.source_options)

    def __iter__(self) -> Iterator[Record | Reject]:
        """Rows in their order. A key is made of path and row, because a path may stand in several rows.

        Raises DataError if the table cannot be read, ConfigError if it lacks a column that is configured.
        """
        for row, cells in enumerate(_rows(self.tree, self.name, self.settings)):
            yield self._item(row, cells)

    def read(self, record: Record) -> bytes:
        """The file at the path or URL. Raises OSError if it cannot be had, Rejected if it is too large."""
        return fetch(self.tree, str(record.location[0]))

    def caption(self, record: Record) -> str | None:
        """What the caption's column says."""
        return record.caption

    def _item(self, row: int, cells: Row) -> Record | Reject:
        path = str(cells.get(self.settings.image_column) or "").strip()
        if not path:
            return Reject(key=row_key(row), source=f"{self.name} row {row}", reason="no path in row")
        source = redact(path)  # what a link is opened with goes into no key, shard or list
        key = hashed_key(_key_name(source), f"row {row}")
        if not is_text(path):
            return Reject(key=key, source=printable(source), reason="name is not UTF-8")
        return row_item(cells, self.settings, key=key, source=source, place=(path,), stamp=stamp_of(self.tree, path))


def parquet_texts(config: PrepareConfig) -> list[str]:
    """The columns of texts of a parquet file. Raises DataError if it cannot be read."""
    tree, name = open_parent(config.source)
    with _reading(f"{tree.url}/{name}"), tree.open(name) as file:
        schema = pyarrow.parquet.read_schema(file)
        return [field.name for field in schema if _is_text_type(field.type)]


def _rows(tree: Tree, name: str, read: SourceConfig) -> Iterator[Row]:
    where = f"{tree.url}/{name}"
    with _reading(where), tree.open(name) as file:
        if name.lower().endswith(".parquet"):
            table = pyarrow.parquet.ParquetFile(file)
            columns = [field.name for field in table.schema_arrow if _is_plain(field.type)]
            need_columns(f"table {where}", columns, read)
            batches = table.iter_batches(ROWS_AT_ONCE, columns=columns)
            yield from chain.from_iterable(batch.to_pylist() for batch in batches)
            return
        # What is not UTF-8 is carried along, so that such a path can be told from others.
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.DictReader(lines, delimiter="\t" if name.lower().endswith(".tsv") else ",")
        need_columns(f"table {where}", rows.fieldnames or [], read)
        texts = {read.image_column, read.identity_column, read.caption_column}
        for row in rows:
            # Fields without a column, which a row that is too long has, stand under None.
            yield {name: cell if name in texts else number_or_text(cell) for name, cell in row.items() if name}


def _key_name(path: str) -> str:
    """The path or the URL without scheme, query and suffix."""
    path = path.partition("://")[2].partition("?")[0] if "://" in path else path
    return split_suffix(str(PurePosixPath(path)))[0]


def _is_plain(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    types = pyarrow.types
    return _is_text_type(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def _is_text_type(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    types = pyarrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Say in one line what is wrong with the table."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"source {where}: no such table; give a .csv, .tsv or .parquet as data.source") from error
    except (ConfigError, DataError):
        raise
    except Exception as error:  # damaged tables and networks that fail raise nearly anything
        raise DataError(f"source {where} cannot be read ({error}); repair the table") from error
