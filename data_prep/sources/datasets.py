"""Hugging Face datasets, from the hub or the disk; pictures as the files that they came from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.records import Record, Reject, Scalar
from data_prep.sources.entries import as_oserror
from data_prep.sources.fetch import checked, fetch
from data_prep.sources.forward import ForwardRows, LastOpened
from data_prep.sources.hugging_face import Dataset, load, loading
from data_prep.sources.names import row_key
from data_prep.sources.rows import row_item

ROWS_AT_ONCE = 256
"""Listed at a time; of a dataset that is streamed, their pictures are in memory."""


@dataclass(frozen=True)
class DatasetSource:
    """Rows of a dataset, which is mapped into memory: that takes none.

    What comes from the hub or from parquet is first copied to the cache of Hugging Face. With ``streaming`` nothing is;
    then the listing goes once through all of it, and each worker about once through what its rows lie in.
    """

    source: str
    settings: SourceConfig
    kept: "_Kept" = field(default_factory=lambda: _Kept(), compare=False)

    @classmethod
    def of(cls, config: PrepareConfig) -> "DatasetSource":
        """The configured source."""
        return cls(config.source, config.read)

    def __iter__(self) -> Iterator[Record | Reject]:
        """Rows in their order. Raises DataError if they cannot be had, ConfigError for a column that is not there."""
        row = 0
        with loading(self.source):
            dataset = load(self.source, self.settings)
            for number, part in enumerate(dataset.parts):
                first = row
                for table in part.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
                    there = table.column(self.settings.image_column).is_valid().to_pylist()
                    for has_picture, cells in zip(there, dataset.cells(table), strict=True):
                        yield self._item(row, (number, row - first), dataset.stamp, has_picture, cells)
                        row += 1

    def read(self, record: Record) -> bytes:
        """The picture's file. Raises OSError if it cannot be had, Rejected if it is too large."""
        part, row = (int(number) for number in record.place)
        with as_oserror(record.source):
            dataset = self.kept.dataset.get("", partial(load, self.source, self.settings))
            picture = dataset.picture(part, row, self.kept.streams)
        if picture and picture["bytes"] is not None:
            return checked(picture["bytes"])
        if not picture or not picture["path"]:
            raise OSError(f"{record.source} has neither bytes nor a path")
        return fetch(dataset.home, picture["path"])

    def caption(self, record: Record) -> str | None:
        """What the caption's column says."""
        return record.caption

    def _item(
        self, row: int, place: tuple[int, int], stamp: str, has_picture: bool, cells: dict[str, Scalar]
    ) -> Record | Reject:
        key, source = row_key(row), f"row {row}"
        if not has_picture:
            return Reject(key=key, source=source, reason="no picture in row")
        return row_item(cells, self.settings, key=key, source=source, place=place, stamp=stamp)


class _Kept:
    """What a process has open; another one opens its own."""

    def __init__(self) -> None:
        self.dataset = LastOpened[Dataset]()
        self.streams = LastOpened[ForwardRows[Any]]()

    def __reduce__(self) -> tuple[type["_Kept"], tuple[()]]:
        return type(self), ()
