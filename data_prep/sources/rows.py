"""Columns of rows, whatever they come from: only plain values, which JSON takes."""

import math
import re
from collections.abc import Iterable, Mapping

from data_prep.errors import ConfigError
from data_prep.records import Scalar


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


def need_columns(where: str, there: Iterable[str], settings: Mapping[str, str | None]) -> None:
    """Raise ConfigError for a setting (by its name in ``data.read``) that names a column which is not there."""
    names = list(there)
    for setting, column in settings.items():
        if column is not None and column not in names:
            raise ConfigError(f"{where} has no column {column!r}; set data.read.{setting} to one of {', '.join(names)}")
