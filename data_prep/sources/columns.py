"""Columns of rows, whatever they come from: only plain values, which JSON takes."""

import math
import re
from collections.abc import Iterable, Mapping

from data_prep.config import SourceConfig
from data_prep.records import Record, Reject, Scalar
from e4t import ConfigError


def scalars(row: Mapping[str, object], exclude: Iterable[str | None] = ()) -> dict[str, Scalar]:
    """The columns that hold plain values; lists, bytes and times are left out."""
    excluded = set(exclude)
    return {
        clean_text(name): to_scalar(value)
        for name, value in row.items()
        if isinstance(name, str) and name not in excluded and (value is None or isinstance(value, str | int | float))
    }


def to_scalar(value: object) -> Scalar:
    """The value as JSON takes it; a number that is none is None."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float) else None


def parse_scalar(value: str | None) -> Scalar:
    """What a text file's field says. ``007`` is a name and not a number; nothing is None."""
    value = (value or "").strip()
    if re.fullmatch(r"-?(0|[1-9]\d{0,17})", value):
        return int(value)
    if re.fullmatch(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,2})?", value) and not re.match(r"-?0\d", value):
        return float(value)
    return clean_text(value) or None


def clean_text(value: str) -> str:
    """The text without what no UTF-8 file takes."""
    return value.encode(errors="replace").decode()


def non_empty(value: object) -> str | None:
    """The value as text; None if there is none in it."""
    content = "" if value is None else clean_text(str(value)).strip()
    return content or None


def record_from_row(
    cells: Mapping[str, object],
    options: SourceConfig,
    *,
    key: str,
    source: str,
    location: tuple[str | int, ...],
    version: str,
) -> Record | Reject:
    """The picture of a row: its identity (the key, if no column says it), caption and other columns."""
    identity = non_empty(to_scalar(cells.get(options.identity_column))) if options.identity_column else key
    if identity is None:
        return Reject(key=key, source=source, reason="no identity in row")
    return Record(
        key=key,
        identity=identity,
        source=source,
        location=location,
        version=version,
        caption=non_empty(to_scalar(cells.get(options.caption_column))) if options.caption_column else None,
        columns=scalars(cells, exclude=(options.image_column, options.identity_column, options.caption_column)),
    )


def require_columns(label: str, available: Iterable[str], options: SourceConfig) -> None:
    """Raise ConfigError for a setting that names a column which is not there."""
    names = list(available)
    for setting in ("image_column", "identity_column", "caption_column"):
        column = getattr(options, setting)
        if column is not None and column not in names:
            raise ConfigError(
                f"{label} has no column {column!r}; set data.source_options.{setting} to one of {', '.join(names)}"
            )
