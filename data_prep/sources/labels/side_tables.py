"""Load identities and columns of images from side tables: CelebA's lists, FFHQ's JSON, any CSV, JSON lines or parquet.

Tables are held in memory while the source is listed. An identity takes about 150 bytes per image; attributes take about
0.1 kB per image plus 0.1 kB for each string or large number (1.5 kB for CelebA's 40 attributes).
"""

import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from data_prep.config import ReadConfig, SourceConfig
from data_prep.errors import DataError, SampleRejected
from data_prep.sources.files.filesystem import open_parent
from data_prep.sources.labels.captions import lookup
from data_prep.sources.labels.path_table import normalize_path
from data_prep.sources.labels.text import TextError, decode_text
from data_prep.sources.tables.columns import parse_scalar, root_column, scalars
from data_prep.sources.tables.delimited import DelimitedReader

Columns = dict[str, Any]
"""Plain values by column, and the unchanged value of the caption column."""
Rows = Iterable[tuple[str, dict[str, Any], str | None]]
"""Image names with their rows, and the column that holds the names."""
NAME_COLUMN = "file_name"
"""Column of metadata files with the path of the image."""
DEFAULT_CAPTION_COLUMNS = ("text", "caption")
"""Columns of metadata files with the caption if ``data.source_options.caption_column`` is not set."""
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_FFHQ_FOLDER = re.compile(r"^(images1024x1024|thumbnails128x128|in-the-wild-images)/")


def load_identities(url: str, fallback: str | None = None, read: ReadConfig | None = None) -> dict[str, str]:
    """Load identities by image name from lines ``<image> <identity>``. Raises DataError if that fails."""
    identities = dict[str, str]()
    with reraise_errors(f"identities {url}", "data.source_options.identities"):
        for number, line in enumerate(io.StringIO(decode_text(_read(url, read), fallback)), 1):
            fields = line.rsplit(maxsplit=1)
            if len(fields) == 1:
                raise DataError(f"identities {url}, line {number}: {line.strip()!r} is not a line `<image> <identity>`")
            if fields:
                name, identity = normalize_path(fields[0]), sys.intern(fields[1])
                if identities.setdefault(name, identity) != identity:
                    raise DataError(f"identities {url}, line {number}: {name!r} is listed above with another identity")
    return identities


def load_attributes(url: str, options: SourceConfig, read: ReadConfig | None = None) -> dict[str, Columns]:
    """Load columns by image name.

    The file is FFHQ's or another .json with rows by image, one of CelebA's lists, or a table whose first column has the
    names (.csv, .tsv, .jsonl or .parquet, or a list of rows in .json). Raises DataError if it cannot be read.
    """
    column = options.caption_column
    with reraise_errors(f"attributes {url}", "data.source_options.attributes"):
        data, name = _read(url, read), url.lower()
        if name.endswith(TABLE_SUFFIXES):
            return index_rows(_name_first(table_rows(data, name, options)), column)
        text = decode_text(data, options.fallback_encoding)
        if name.endswith(".json"):
            return index_rows(_parse_json(text, url, column), column)
        return index_rows(_parse_celeba(io.StringIO(text), url), column)


def _name_first(rows: Iterable[dict[str, Any]]) -> Rows:
    """Take the first column of each row as the image name."""
    for row in rows:
        first = next(iter(row), "")
        yield str(row.get(first) or ""), row, first


def table_rows(data: bytes, name: str, options: SourceConfig) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table whose format the suffix of ``name`` tells. Raises ValueError if it cannot be read.

    Columns of a CSV with names, identities and captions remain text; in others numbers are recognized.
    """
    if name.endswith(".parquet"):
        import pyarrow.parquet  # imported late: it takes seconds

        from data_prep.sources.tables.arrow_rows import arrow_rows

        for batch in pyarrow.parquet.ParquetFile(io.BytesIO(data)).iter_batches():
            yield from arrow_rows(batch)
        return
    lines = io.StringIO(decode_text(data, options.fallback_encoding), newline="")
    if name.endswith(".jsonl"):
        yield from _json_lines(lines)
        return
    rows = DelimitedReader(lines, "\t" if name.endswith(".tsv") else ",", NAME_COLUMN)
    names = [name for name in rows.columns if name]
    labels = (options.caption_column, options.identity_column, NAME_COLUMN, *DEFAULT_CAPTION_COLUMNS)
    text_columns = {*names[:1], *(root_column(label, names) for label in labels if label)}
    for row in rows:
        if row.problem:
            raise ValueError(row.problem)
        yield {name: row.cells[name] if name in text_columns else parse_scalar(row.cells[name]) for name in names}


def _json_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield row


def index_rows(rows: Rows, caption_column: str | None) -> dict[str, Columns]:
    """Index rows by image; each row comes with the image name and the column to leave out.

    The captions of several rows of one image become a list; of its other columns those of the first row are taken.
    Raises TextError.
    """
    table, captions = dict[str, Columns](), dict[str, list[object]]()
    for name, row, name_column in rows:
        path = normalize_path(name)
        columns: Columns = dict(scalars(row, exclude=(name_column, caption_column)))
        caption = lookup(row, caption_column) if caption_column else None
        if caption is not None and caption_column:
            columns[caption_column] = caption
        first = table.setdefault(path, columns)
        if first is not columns and caption_column:
            captions.setdefault(path, [first.get(caption_column)]).append(caption)
    for path, values in captions.items():
        table[path][caption_column or ""] = values
    return table


def _parse_celeba(lines: io.StringIO, url: str) -> Rows:
    """Parse a CelebA list: a line with the count, a line with column names, then one line per image."""
    if not lines.readline().strip().isdigit():
        raise DataError(
            f"attributes {url} does not start with a count, as CelebA's lists do; give a CelebA list, .csv, .tsv, "
            ".json, .jsonl or .parquet"
        )
    header = [sys.intern(name) for name in lines.readline().split()]
    for number, line in enumerate(lines, 3):
        name, *values = line.split() or [""]
        # The list of boxes also names the first column, the list of attributes does not.
        names = header[len(header) - len(values) :] if len(header) - len(values) in (0, 1) else []
        if name and not names:
            raise DataError(f"attributes {url}, line {number}: {len(values)} values for {len(header)} columns")
        if name:
            yield name, {key: parse_scalar(value) for key, value in zip(names, values, strict=True)}, None


def _parse_json(text: str, url: str, caption_column: str | None) -> Rows:
    """Parse an object of rows by image, where a row may also be the caption alone, or a list of rows.

    FFHQ numbers the images and has the path under ``image`` and the author under ``metadata``.
    """
    # Face landmarks are most of FFHQ's 267 MB: drop lists of numbers while parsing, or they take gigabytes of memory.
    data = json.loads(text, object_hook=_without_number_lists)
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        yield from _name_first(data)
        return
    if not isinstance(data, dict):
        raise DataError(f"attributes {url} is not a JSON object by image")
    for name, row in data.items():
        if isinstance(row, dict):
            image, metadata = (row[part] if isinstance(row.get(part), dict) else {} for part in ("image", "metadata"))
            path = _FFHQ_FOLDER.sub("", str(image.get("file_path", name)))
            yield path, row | metadata, None
        elif isinstance(row, str | list):
            yield name, {caption_column or "caption": row}, None


def _without_number_lists(data: dict[str, Any]) -> dict[str, Any]:
    return {
        sys.intern(name): sys.intern(value) if isinstance(value, str) else value
        for name, value in data.items()
        if not (isinstance(value, list) and (not value or isinstance(value[0], int | float | list)))
    }


def _read(url: str, read: ReadConfig | None) -> bytes:
    tree, name = open_parent(url, read)
    with tree.open(name) as file:
        return file.read()


@contextmanager
def reraise_errors(label: str, setting: str) -> Iterator[None]:
    """Raise DataError if a file cannot be opened, decoded or parsed within the block; ``setting`` names it."""
    try:
        yield
    except TextError as error:
        raise DataError(f"{label}, {error}; save it as UTF-8, or set data.source_options.fallback_encoding") from error
    except SampleRejected as error:
        raise DataError(f"{label} cannot be read ({error.cause or error.reason}); check {setting}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{label} cannot be read ({error}); check {setting}") from error
