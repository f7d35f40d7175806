"""Read text tables row by row: CSV, TSV, JSON lines and lists of paths, also compressed."""

import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, BinaryIO, TextIO

from data_prep.config import SourceConfig
from data_prep.errors import DataError
from data_prep.sources.archives.tar import open_decompressed
from data_prep.sources.labels.text import TextError, decode_escaped
from data_prep.sources.tables.columns import parse_scalar, require_columns, root_column
from data_prep.sources.tables.delimited import DelimitedReader

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz")
TEXT_TABLE_SUFFIXES = (*TEXT_SUFFIXES, *(text + codec for text in TEXT_SUFFIXES for codec in COMPRESSED_SUFFIXES))
INSPECTED_ROWS = 100
"""Rows of JSON that tell which columns there are; a row need not have all of them."""
Row = dict[str, Any]


def open_table(file: BinaryIO, name: str) -> BinaryIO:
    """Return the stream of the table's text, decompressed if the suffix of ``name`` says so."""
    name = name.lower()
    return open_decompressed(file, name) if name.endswith(COMPRESSED_SUFFIXES) else file


def read_text_rows(lines: TextIO, url: str, options: SourceConfig) -> Iterator[Row | str]:
    """Yield the cells of each row by column, or why a row is malformed.

    Raises ConfigError for a missing column and DataError for names of columns that cannot be decoded.
    """
    name = url.lower().removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
    if name.endswith(".txt"):
        require_columns(f"list {url}", [options.image_column], options)
        return ({options.image_column: line.strip()} for line in lines if line.strip())
    if name.endswith((".jsonl", ".ndjson")):
        return _read_json_lines(lines, url, options)
    return _read_delimited(lines, url, options, "\t" if name.endswith(".tsv") else ",")


def _read_delimited(lines: TextIO, url: str, options: SourceConfig, delimiter: str) -> Iterator[Row | str]:
    reader = DelimitedReader(lines, delimiter, options.image_column)
    try:
        reader.columns = [decode_escaped(name, options.fallback_encoding) for name in reader.columns]
    except TextError as error:
        raise DataError(
            f"source {url}, {error}; save it as UTF-8, or set data.source_options.fallback_encoding"
        ) from error
    require_columns(f"table {url}", reader.columns, options)
    text_labels = (options.image_column, options.identity_column, options.caption_column)
    text_columns = {root_column(label, reader.columns) for label in text_labels if label}
    for row in reader:
        yield row.problem or {
            name: cell if name in text_columns else parse_scalar(cell) for name, cell in row.cells.items()
        }


def _read_json_lines(lines: TextIO, url: str, options: SourceConfig) -> Iterator[Row | str]:
    rows = (
        _parse_json_line(number, line, options.fallback_encoding)
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    first = list(islice(rows, INSPECTED_ROWS))
    require_columns(
        f"table {url}", dict.fromkeys(name for row in first if isinstance(row, dict) for name in row), options
    )
    yield from chain(first, rows)


def _parse_json_line(number: int, line: str, fallback: str | None) -> Row | str:
    try:
        row = json.loads(line if fallback is None else decode_escaped(line, fallback))
    except (ValueError, RecursionError):
        row = None
    return row if isinstance(row, dict) else f"line {number} is not a JSON object"
