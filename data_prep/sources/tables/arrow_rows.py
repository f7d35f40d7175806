"""Convert Arrow tables to rows, also if their text is not UTF-8."""

from typing import Any

import pyarrow


def arrow_rows(table: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - pyarrow has no types
    """Return the rows of a table or batch. Bytes of text that are not UTF-8 become lone surrogates."""
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except UnicodeDecodeError:
        columns = [_values(column) for column in table.columns]
        rows = [dict(zip(table.schema.names, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return rows


def _values(column: Any) -> list[Any]:  # noqa: ANN401 - pyarrow has no types
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = _decode(column.cast(_with_bytes(column.type)).to_pylist())
    return values


def _with_bytes(kind: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return the type with binary in the place of text."""
    types = pyarrow.types
    if types.is_dictionary(kind):
        return _with_bytes(kind.value_type)
    if types.is_struct(kind):
        return pyarrow.struct([field.with_type(_with_bytes(field.type)) for field in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        return pyarrow.list_(_with_bytes(kind.value_type))
    return pyarrow.large_binary() if types.is_string(kind) or types.is_large_string(kind) else kind


def _decode(value: Any) -> Any:  # noqa: ANN401 - any value of a row
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return {name: _decode(item) for name, item in value.items()} if isinstance(value, dict) else value
