"""Opening a Hugging Face dataset, mapped into memory or streamed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import huggingface_hub

from data_prep.config import PrepareConfig, SourceConfig, sha256_json
from data_prep.errors import ConfigError, DataError
from data_prep.records import Record, Reject, Scalar
from data_prep.sources.columns import need_columns, row_item
from data_prep.sources.detect import HUB
from data_prep.sources.fetch import checked, fetch
from data_prep.sources.filesystem import LocalTree, Tree, as_oserror, is_file, is_local, open_parent, open_tree
from data_prep.sources.names import row_key
from data_prep.sources.sequential import ForwardRows, LastOpened

FILES = (".parquet", ".arrow")


@dataclass(frozen=True)
class Dataset:
    """An open dataset."""

    parts: Sequence[Any]
    """``datasets.Dataset``, one, or the ``datasets.IterableDataset`` that a streamed one can be cut into."""
    pictures: Any
    """The column of pictures, by row; None if the dataset is streamed."""
    image_column: str
    labels: dict[str, list[str]]
    """Of the columns that hold numbers of classes, their names."""
    plain_columns: list[str]
    """The columns of texts, numbers and classes, but for the picture's."""
    stamp: str
    """Changes when the dataset does, as far as it can be told."""
    home: Tree
    """Where relative paths of pictures lead from."""

    def cells(self, table: Any) -> Iterator[dict[str, Scalar]]:  # noqa: ANN401 - pyarrow has no types
        """Plain columns of some rows, classes by their names."""
        for row in table.select(self.plain_columns).to_pylist():
            yield row | {name: _label(names, row[name]) for name, names in self.labels.items()}

    def picture(self, part: int, row: int, streams: LastOpened[ForwardRows[Any]]) -> dict[str, Any] | None:
        """Bytes or path of a row's picture. Raises OSError, or what the dataset raises."""
        if self.pictures is None:
            stream = streams.get(part, lambda: ForwardRows(self.parts[part].select_columns([self.image_column])))
            picture: dict[str, Any] | None = stream.read(row)[self.image_column]
        else:
            picture = self.pictures[row][self.image_column]
        return picture


def load(source: str, read: SourceConfig) -> Dataset:
    """Open the dataset. Raises ConfigError for a column or split that is not there, and what ``datasets`` raises."""
    found = _open(source, read)
    if found.features is None:
        found = found._resolve_features()
    need_columns(f"dataset {source}", found.features, read)
    stamp = found._fingerprint if isinstance(found, datasets.Dataset) else _stamp(source)
    # Undecoded: the file's own bytes, which preparation looks at itself.
    found = found.cast_column(read.image_column, datasets.Image(decode=False))
    rest = {name: kind for name, kind in found.features.items() if name != read.image_column}
    streamed = isinstance(found, datasets.IterableDataset)
    return Dataset(
        parts=[found.shard(found.num_shards, index) for index in range(found.num_shards)] if streamed else [found],
        pictures=None if streamed else found.select_columns([read.image_column]),
        image_column=read.image_column,
        labels={name: kind.names for name, kind in rest.items() if isinstance(kind, datasets.ClassLabel)},
        plain_columns=[name for name, kind in rest.items() if _is_plain(kind)],
        stamp=stamp,
        home=_home(source),
    )


@contextmanager
def loading(source: str) -> Iterator[None]:
    """Say in one line what is wrong with the dataset."""
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:  # what the hub, networks and damaged files raise has nothing in common
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise DataError(f"source {source} cannot be loaded ({reason}); check data.source and data.read") from error


def _open(source: str, read: SourceConfig) -> Any:  # noqa: ANN401 - datasets has no types
    stream = {"streaming": read.streaming}
    if source.startswith(HUB):
        return datasets.load_dataset(_hub_name(source), split=read.split, **stream)
    if source.endswith(".arrow") and is_local(source) and not read.streaming:
        return datasets.concatenate_datasets([datasets.Dataset.from_file(path) for path in _files(source)])
    if source.endswith(FILES):
        files = _files(source) if is_local(source) else source
        return datasets.load_dataset(source.rpartition(".")[2], data_files=files, split="train", **stream)
    tree = open_tree(source)
    if is_file(tree, "dataset_dict.json"):
        splits = datasets.load_from_disk(source)
        if read.split not in splits:
            raise ConfigError(f"dataset {source} has no split {read.split!r}; set data.read.split: {', '.join(splits)}")
        return splits[read.split]
    if is_file(tree, "state.json"):
        return datasets.load_from_disk(source)
    return datasets.load_dataset(source, split=read.split, **stream)


def _hub_name(source: str) -> str:
    """With the scheme, a folder that happens to be called like the dataset is not taken for it."""
    return f"hf://datasets/{source.removeprefix(HUB).removeprefix('datasets/')}"


def _files(source: str) -> list[str]:
    """The local files of a pattern with ``*``, or the one. Raises DataError if there is none."""
    tree, name = open_parent(source)
    names = tree.glob(name) if "*" in name else [name] * is_file(tree, name)
    if not names:
        raise DataError(f"source {source}: no such file; give .parquet or .arrow as data.source")
    return [str(Path(tree.url, name)) for name in names]


def _stamp(source: str) -> str:
    """Of a dataset that is streamed: the commit on the hub, or a digest of local files' sizes and times."""
    if source.startswith(HUB):
        return str(huggingface_hub.HfApi().dataset_info(_hub_name(source).removeprefix("hf://datasets/")).sha)
    if source.endswith(FILES) and is_local(source):
        return sha256_json([LocalTree("").entry(path).stamp for path in _files(source)])
    return ""


def _home(source: str) -> Tree:
    if source.startswith(HUB):
        return LocalTree(".")
    return open_parent(source)[0] if source.endswith(FILES) else open_tree(source)


def _label(names: list[str], number: int | None) -> str | None:
    return names[number] if number is not None and 0 <= number < len(names) else None


def _is_plain(kind: object) -> bool:
    return isinstance(kind, datasets.ClassLabel) or (
        isinstance(kind, datasets.Value) and kind.dtype not in ("binary", "large_binary")
    )


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
        return cls(config.source, config.source_options)

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
        part, row = (int(number) for number in record.location)
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
