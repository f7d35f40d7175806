"""Columns of rows, whatever they come from: only plain values, which JSON takes."""

import math
import re
from collections.abc import Iterable, Mapping

from data_prep.config import SourceConfig
from data_prep.errors import ConfigError
from data_prep.records import Record, Reject, Scalar


def scalars(row: Mapping[str, object], without: Iterable[str | None] = ()) -> dict[str, Scalar]:
    """The columns that hold plain values; lists, bytes and times are left out."""
    left_out = set(without)
    return {
        text(name): plain(value)
        for name, value in row.items()
        if isinstance(name, str) and name not in left_out and (value is None or isinstance(value, str | int | float))
    }


def plain(value: object) -> Scalar:
    """The value as JSON takes it; a number that is none is None."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float) else None


def number_or_text(value: str | None) -> Scalar:
    """What a text file's field says. ``007`` is a name and not a number; nothing is None."""
    value = (value or "").strip()
    if re.fullmatch(r"-?(0|[1-9]\d{0,17})", value):
        return int(value)
    if re.fullmatch(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,2})?", value) and not re.match(r"-?0\d", value):
        return float(value)
    return text(value) or None


def text(value: str) -> str:
    """The text without what no UTF-8 file takes."""
    return value.encode(errors="replace").decode()


def filled(value: object) -> str | None:
    """The value as text; None if there is none in it."""
    found = "" if value is None else text(str(value)).strip()
    return found or None


def row_item(
    cells: Mapping[str, object], read: SourceConfig, *, key: str, source: str, place: tuple[str | int, ...], stamp: str
) -> Record | Reject:
    """The picture of a row: its identity (the key, if no column says it), caption and other columns."""
    identity = filled(plain(cells.get(read.identity_column))) if read.identity_column else key
    if identity is None:
        return Reject(key=key, source=source, reason="no identity in row")
    return Record(
        key=key,
        identity=identity,
        source=source,
        location=place,
        version=stamp,
        caption=filled(plain(cells.get(read.caption_column))) if read.caption_column else None,
        columns=scalars(cells, without=(read.image_column, read.identity_column, read.caption_column)),
    )


def need_columns(where: str, there: Iterable[str], read: SourceConfig) -> None:
    """Raise ConfigError for a setting that names a column which is not there."""
    names = list(there)
    for setting in ("image_column", "identity_column", "caption_column"):
        column = getattr(read, setting)
        if column is not None and column not in names:
            raise ConfigError(f"{where} has no column {column!r}; set data.read.{setting} to one of {', '.join(names)}")
