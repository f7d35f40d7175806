"""Convert rows of tables and datasets to plain JSON values, identities and captions."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from data_prep.config import SourceConfig
from data_prep.errors import SampleRejected
from data_prep.records import Record, Reject, Scalar
from data_prep.sources.labels.captions import caption_from_value, lookup
from data_prep.sources.labels.text import TextError, decode_escaped
from e4t_errors import ConfigError

NOT_TEXT = "text is not UTF-8"
"""Reject reason of rows."""


def scalars(row: Mapping[str, object], exclude: Iterable[str | None] = ()) -> dict[str, Scalar]:
    """Return the columns with plain values; lists, bytes and timestamps are left out. Raises TextError."""
    excluded = set(exclude)
    return {
        decode_escaped(name, None): to_scalar(value)
        for name, value in row.items()
        if isinstance(name, str) and name not in excluded and (value is None or isinstance(value, str | int | float))
    }


def to_scalar(value: object) -> Scalar:
    """Convert a value for JSON; NaN, infinities and values that are not plain become None. Raises TextError."""
    if isinstance(value, str):
        return decode_escaped(value, None)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float) else None


def parse_scalar(value: str | None) -> Scalar:
    """Parse a field of a text file. ``007`` stays a string; an empty field is None."""
    value = (value or "").strip()
    if re.fullmatch(r"-?(0|[1-9]\d{0,17})", value):
        return int(value)
    if re.fullmatch(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,2})?", value) and not re.match(r"-?0\d", value):
        return float(value)
    return value or None


def non_empty(value: object) -> str | None:
    """Convert a value to stripped text; None if it is empty."""
    content = "" if value is None else str(value).strip()
    return content or None


def _decode_cells(cells: dict[str, Any], fallback: str | None) -> dict[str, Any]:
    """Decode the text of a row that is not UTF-8 with the fallback encoding, if there is one. Raises TextError."""
    return cells if fallback is None else {name: _decode_cell(cell, fallback) for name, cell in cells.items()}


def _decode_cell(cell: object, fallback: str) -> object:
    if isinstance(cell, str):
        return decode_escaped(cell, fallback)
    if isinstance(cell, list):
        return [_decode_cell(item, fallback) for item in cell]
    return _decode_cells(cell, fallback) if isinstance(cell, dict) else cell


def record_from_row(
    cells: dict[str, Any],
    options: SourceConfig,
    *,
    key: str,
    source: str,
    location: tuple[str | int, ...],
    version: str,
) -> Record | Reject:
    """Build the record of a row. Without an identity column the key is the identity."""
    try:
        cells = _decode_cells(cells, options.fallback_encoding)
        identity = non_empty(to_scalar(lookup(cells, options.identity_column))) if options.identity_column else key
        if identity is None:
            return Reject(key=key, source=source, reason="no identity in row")
        column = options.caption_column
        caption = caption_from_value(lookup(cells, column), options, key) if column else None
        labels = (options.image_column, options.identity_column, column)
        # Null in a column of structs: in other rows, the column is left out.
        nulls = [root for label in labels if label and cells.get(root := root_column(label, cells) or "") is None]
        columns = scalars(cells, exclude=(*labels, *nulls))
    except TextError as error:
        return Reject(key=key, source=source, reason=NOT_TEXT, cause=str(error))
    except SampleRejected as error:
        return Reject.from_error(error, key=key, source=source)
    return Record(
        key=key,
        identity=identity,
        source=source,
        location=location,
        version=version,
        caption=caption,
        has_caption=caption is not None if column else None,
        columns=columns,
    )


def require_columns(label: str, available: Iterable[str], options: SourceConfig) -> None:
    """Raise ConfigError if an option names a column that does not exist."""
    names = list(available)
    for setting in ("image_column", "identity_column", "caption_column"):
        column = getattr(options, setting)
        if column is not None and root_column(column, names) is None:
            raise ConfigError(
                f"{label} has no column {column!r}; set data.source_options.{setting} to one of {', '.join(names)}"
            )


def root_column(column: str, names: Iterable[str]) -> str | None:
    """Return the column that a name belongs to, which may be the dotted name of a field; None if there is none."""
    return next((name for name in names if name == column or column.startswith(f"{name}.")), None)
