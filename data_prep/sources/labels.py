"""Look up identity, caption and columns of an image by its path, from a pattern, side tables and metadata files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.config import SourceConfig
from data_prep.errors import SampleRejected
from data_prep.records import Record, Reject
from data_prep.sources.captions import caption_from_value
from data_prep.sources.columns import non_empty, scalars, to_scalar
from data_prep.sources.metadata_files import Metadata
from data_prep.sources.names import escape, split_suffix
from data_prep.sources.path_table import PathTable
from data_prep.sources.side_tables import Columns, load_attributes, load_identities
from e4t_errors import ConfigError


@dataclass(frozen=True)
class CaptionFile:
    """A caption file that belongs to an image."""

    location: tuple[str | int, ...]
    """Location in the form that the source reads; it is appended to that of the image."""
    version: str
    """Differs after the content has changed."""


@dataclass(frozen=True)
class Labels:
    """Identity, caption and columns by path. It is created per listing and then dropped, because tables are large."""

    options: SourceConfig
    pattern: re.Pattern[str]
    identities: PathTable[str] | None
    attributes: PathTable[Columns]

    @classmethod
    def load(cls, options: SourceConfig) -> "Labels":
        """Load the tables that the options name.

        Raises DataError if a table cannot be read and ConfigError if the attributes lack the caption column.
        """
        attributes = load_attributes(options.attributes, options) if options.attributes else {}
        column = options.caption_column if attributes else None
        if column and not any(column in columns for columns in attributes.values()):
            raise ConfigError(
                f"attributes {options.attributes} have no column {column!r}; check data.source_options.caption_column"
            )
        identities = load_identities(options.identities, options.fallback_encoding) if options.identities else None
        return cls(
            options=options,
            pattern=_compile(options.pattern),
            identities=None if identities is None else PathTable(identities),
            attributes=PathTable(attributes),
        )

    def to_record(
        self,
        path: str,
        *,
        key: str,
        source: str,
        location: tuple[str | int, ...],
        version: str,
        caption_file: CaptionFile | None = None,
        metadata: Sequence[Metadata] = (),
    ) -> Record | Reject:
        """Return the record of the image at a path relative to the source, or a Reject.

        ``metadata`` are those of its folder and the folders above it, the nearest first. A caption from the configured
        column is preferred to the caption file, and that to the caption from a column of metadata by default.
        """
        found = next(((table, row) for table in metadata if (row := table.find(path)) is not None), None)
        columns = (self.attributes.find(path) or {}) | (found[1] if found else {})
        column = self.options.caption_column or (found[0].caption_column if found else None)
        try:
            caption = caption_from_value(columns.pop(column, None), self.options, key) if column else None
        except SampleRejected as error:
            return Reject(key=key, source=escape(source), reason=error.reason, cause=error.cause)
        identity = self.identity(path, columns)
        if identity is None:
            reason = "path names no identity" if self.identities is None else "not in the identities file"
            return Reject(key=key, source=escape(source), reason=reason)
        if caption_file and not (caption and self.options.caption_column):
            location, version = (*location, *caption_file.location), f"{version}+{caption_file.version}"
        expected = self.options.expects_captions or any(table.caption_column for table in metadata)
        return Record(
            key=key,
            identity=identity,
            source=source,
            location=location,
            version=version,
            caption=caption,
            has_caption=True if caption or caption_file else False if expected else None,
            columns=scalars(columns, exclude=(self.options.identity_column,)),
        )

    def identity(self, path: str, columns: Columns) -> str | None:
        """Return the identity of the image at a path, or None if it is unknown."""
        if self.identities is not None:
            return self.identities.find(path)
        column = self.options.identity_column
        if column and column in columns:
            return non_empty(to_scalar(columns[column]))
        match = self.pattern.fullmatch(split_suffix(path)[0])
        return match["identity"] if match else None


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    return re.compile("".join(f"(?P<{part}>[^/]+)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts)))
