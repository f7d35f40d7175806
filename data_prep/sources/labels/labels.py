"""Look up identity, caption and columns of an image by its path, from a pattern, side tables and metadata files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.config import ReadConfig, SourceConfig
from data_prep.errors import SampleRejected
from data_prep.records import Record, Reject
from data_prep.sources.labels.captions import UNREADABLE, caption_from_value
from data_prep.sources.labels.metadata_files import Metadata
from data_prep.sources.labels.path_table import PathTable, Row
from data_prep.sources.labels.side_tables import Columns, load_attributes, load_identities
from data_prep.sources.names import escape, split_suffix
from data_prep.sources.tables.columns import non_empty, scalars, to_scalar
from e4t_errors import ConfigError


@dataclass(frozen=True)
class CaptionFile:
    """A caption file that belongs to an image."""

    location: tuple[str | int, ...]
    """Location in the form that the source reads; it is appended to that of the image."""
    version: str
    """Differs after the content has changed."""
    problem: str = ""
    """Why it must not be read; empty if it may be."""


@dataclass(frozen=True)
class Labels:
    """Identity, caption and columns by path. It is created per listing and then dropped, because tables are large."""

    options: SourceConfig
    pattern: re.Pattern[str]
    identities: PathTable[str] | None
    attributes: PathTable[Columns]

    @classmethod
    def load(cls, options: SourceConfig, read: ReadConfig | None = None) -> "Labels":
        """Load the tables that the options name.

        Raises DataError if a table cannot be read and ConfigError if the attributes lack the caption column.
        """
        attributes = load_attributes(options.attributes, options, read) if options.attributes else {}
        column = options.caption_column if attributes else None
        if column and not any(column in columns for columns in attributes.values()):
            raise ConfigError(
                f"attributes {options.attributes} have no column {column!r}; check data.source_options.caption_column"
            )
        fallback = options.fallback_encoding
        identities = load_identities(options.identities, fallback, read) if options.identities else None
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
        archive_folder: str = "",
        caption_file: CaptionFile | None = None,
        metadata: Sequence[Metadata] = (),
    ) -> Record | Reject:
        """Return the record of the image at a path relative to the source, or a Reject.

        ``archive_folder`` is the folder, with a slash, that an archive would be unpacked to, if there are several.
        ``metadata`` are those of the image's folder and the folders above it, the nearest first. A caption from the
        configured column is preferred to the caption file, and that to one from a column of metadata by default.
        """
        found = next(((table, row) for table in metadata if (row := table.find(path)) is not None), None)
        columns = (_find(self.attributes, path, archive_folder) or {}) | (found[1] if found else {})
        column = self.options.caption_column or (found[0].caption_column if found else None)
        try:
            caption = caption_from_value(columns.pop(column, None), self.options, key) if column else None
        except SampleRejected as error:
            return Reject.from_error(error, key=key, source=escape(source))
        identity = self._identity(path, archive_folder, columns)
        if identity is None:
            return Reject(key=key, source=escape(source), reason=self._no_identity_reason)
        if caption_file and not (caption and self.options.caption_column):
            if caption_file.problem:
                return Reject(key=key, source=escape(source), reason=UNREADABLE, cause=caption_file.problem)
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

    def _identity(self, path: str, archive_folder: str, columns: Columns) -> str | None:
        if self.identities is not None:
            return _find(self.identities, path, archive_folder)
        if self.options.identity_column:
            return non_empty(to_scalar(columns.get(self.options.identity_column)))
        match = self.pattern.fullmatch(split_suffix(path)[0])
        return match["identity"] if match else None

    @property
    def _no_identity_reason(self) -> str:
        if self.identities is not None:
            return "not in the identities file"
        return "no identity in row" if self.options.identity_column else "path names no identity"


def _find(table: PathTable[Row], path: str, archive_folder: str) -> Row | None:
    """Return the row of an image; tables may list it with or without the folder of its archive."""
    row = table.find(archive_folder + path)
    return table.find(path) if row is None and archive_folder else row


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    return re.compile("".join(f"(?P<{part}>[^/]+)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts)))
