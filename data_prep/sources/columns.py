"""Convert rows of tables and datasets to plain JSON values, identities and captions."""

import math
import re
from collections.abc import Iterable, Mapping

from data_prep.config import SourceConfig
from data_prep.records import Record, Reject, Scalar
from e4t_errors import ConfigError


def scalars(row: Mapping[str, object], exclude: Iterable[str | None] = ()) -> dict[str, Scalar]:
    """Return the columns with plain values; lists, bytes and timestamps are left out."""
    excluded = set(exclude)
    return {
        clean_text(name): to_scalar(value)
        for name, value in row.items()
        if isinstance(name, str) and name not in excluded and (value is None or isinstance(value, str | int | float))
    }


def to_scalar(value: object) -> Scalar:
    """Convert a value for JSON; NaN, infinities and values that are not plain become None."""
    if isinstance(value, str):
        return clean_text(value)
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
    return clean_text(value) or None


def clean_text(value: str) -> str:
    """Replace characters that cannot be encoded as UTF-8."""
    return value.encode(errors="replace").decode()


def non_empty(value: object) -> str | None:
    """Convert a value to stripped text; None if it is empty."""
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
    """Build the record of a row. Without an identity column the key is the identity."""
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
    """Raise ConfigError if an option names a column that does not exist."""
    names = list(available)
    for setting in ("image_column", "identity_column", "caption_column"):
        column = getattr(options, setting)
        if column is not None and column not in names:
            raise ConfigError(
                f"{label} has no column {column!r}; set data.source_options.{setting} to one of {', '.join(names)}"
            )
