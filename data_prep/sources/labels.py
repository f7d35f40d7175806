"""Look up identity, caption and columns of an image by its path, from a pattern or from side tables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from data_prep.config import SourceConfig
from data_prep.records import Record, Reject
from data_prep.sources.columns import non_empty
from data_prep.sources.names import escape, split_suffix
from data_prep.sources.side_tables import Columns, load_attributes, load_identities
from e4t_errors import ConfigError

Row = TypeVar("Row")


@dataclass(frozen=True)
class Labels:
    """Identity, caption and columns by path. It is created per listing and then dropped, because tables are large."""

    pattern: re.Pattern[str]
    identities: Mapping[str, str] | None
    attributes: Mapping[str, Columns]
    caption_column: str | None

    @classmethod
    def load(cls, options: SourceConfig) -> "Labels":
        """Load the tables that the options name.

        Raises DataError if a table cannot be read and ConfigError if the attributes lack the caption column.
        """
        attributes = load_attributes(options.attributes) if options.attributes else {}
        column = options.caption_column if attributes else None
        if column and not any(column in columns for columns in attributes.values()):
            raise ConfigError(
                f"attributes {options.attributes} have no column {column!r}; check data.source_options.caption_column"
            )
        return cls(
            pattern=_compile(options.pattern),
            identities=load_identities(options.identities) if options.identities else None,
            attributes=attributes,
            caption_column=column,
        )

    def to_record(
        self, path: str, *, key: str, source: str, location: tuple[str | int, ...], version: str
    ) -> Record | Reject:
        """Return the record of the image at a path relative to the source, or a Reject if its identity is unknown."""
        identity = self.identity(path)
        if identity is None:
            reason = "path names no identity" if self.identities is None else "not in the identities file"
            return Reject(key=key, source=escape(source), reason=reason)
        columns = dict(self._lookup(path, self.attributes) or {})
        caption = non_empty(columns.pop(self.caption_column, None)) if self.caption_column else None
        return Record(
            key=key,
            identity=identity,
            source=source,
            location=location,
            version=version,
            caption=caption,
            columns=columns,
        )

    def identity(self, path: str) -> str | None:
        """Return the identity of the image at a path, or None if it is unknown."""
        if self.identities is not None:
            return self._lookup(path, self.identities)
        match = self.pattern.fullmatch(split_suffix(path)[0])
        return match["identity"] if match else None

    @staticmethod
    def _lookup(path: str, table: Mapping[str, Row]) -> Row | None:
        """Return the row of an image; tables list images by path, by file name, or by file name without suffix."""
        name = path.rpartition("/")[2]
        return next((table[row] for row in (path, name, split_suffix(name)[0]) if row in table), None)


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    return re.compile("".join(f"(?P<{part}>[^/]+)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts)))
