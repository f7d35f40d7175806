"""Read Hugging Face datasets, memory-mapped or streamed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import huggingface_hub

from data_prep.config import PrepareConfig, ReadConfig, SourceConfig
from data_prep.config_dict import sha256_json
from data_prep.credentials import redact
from data_prep.errors import DataError, SampleRejected
from data_prep.records import Ignored, Listed, Record, Reject
from data_prep.sources.archives.archive_files import expand_pattern
from data_prep.sources.detect import DATA_FILE_SUFFIXES, HUB_PREFIX
from data_prep.sources.files.failures import READ_FAILED, failure_of
from data_prep.sources.files.fetch import fetch
from data_prep.sources.files.filesystem import (
    FileTree,
    check_version,
    is_file,
    is_local,
    limit_size,
    open_parent,
    open_tree,
)
from data_prep.sources.files.local_tree import LocalTree
from data_prep.sources.files.retrying import with_retries
from data_prep.sources.files.sequential import HandleCache, SequentialRows
from data_prep.sources.files.versions import changed
from data_prep.sources.names import row_key
from data_prep.sources.tables.arrow_rows import arrow_rows
from data_prep.sources.tables.columns import record_from_row, require_columns, root_column
from e4t_errors import ConfigError


@dataclass(frozen=True)
class Dataset:
    """An opened dataset."""

    parts: Sequence[Any]
    """One ``datasets.Dataset``, or the ``datasets.IterableDataset`` shards of a streamed one."""
    image_rows: Any
    """The image column, indexed by row; None if the dataset is streamed."""
    image_column: str
    """Name of the image column."""
    class_names: dict[str, list[str]]
    """Class names of each column with classes or lists of classes."""
    label_columns: list[str]
    """Columns with strings, numbers and classes, and those of identity and caption, which may hold lists or structs."""
    version: str
    """Fingerprint or revision of the dataset; empty if unknown."""
    image_root: FileTree
    """Folder that relative image paths start from."""

    def label_rows(self, table: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - pyarrow has no types
        """Yield the label columns of each row, with class names instead of numbers."""
        for row in arrow_rows(table.select(self.label_columns)):
            yield row | {name: _class_name(names, row[name]) for name, names in self.class_names.items()}

    def image(self, part: int, row: int, streams: HandleCache[SequentialRows[Any]]) -> dict[str, Any] | None:
        """Return the row's image as ``{"bytes", "path"}``. Raises IndexError, or whatever the dataset raises."""
        if self.image_rows is None:
            stream = streams.get(part, lambda: SequentialRows(self.parts[part].select_columns([self.image_column])))
            image: dict[str, Any] | None = stream.read(row)[self.image_column]
        else:
            image = self.image_rows[row][self.image_column]
        return image


def load(source: str, options: SourceConfig, config: ReadConfig) -> Dataset:
    """Open the dataset. Raises ConfigError for a missing column or split, DataError, and ReadFailed."""

    def attempt() -> Dataset:
        try:
            return _load(source, options, config)
        except (ConfigError, DataError):
            raise
        except Exception as error:  # the hub, networks and corrupt files raise unrelated exceptions
            failure = failure_of(error)
            failure.repeat = failure.repeat and failure.reason != READ_FAILED  # probably corrupt
            outer = (str(error).splitlines() or [type(error).__name__])[0]
            failure.cause = failure.cause if failure.cause in outer else f"{failure.cause}: {redact(outer)}"
            raise failure from error

    return with_retries(config, redact(source), attempt)


def _load(source: str, options: SourceConfig, config: ReadConfig) -> Dataset:
    dataset = _open(source, options, config)
    if dataset.features is None:
        dataset = dataset._resolve_features()
    require_columns(f"dataset {source}", dataset.features, options)
    version = _version(source, config, dataset)
    # Not decoded here: preparation needs the bytes of the file.
    dataset = dataset.cast_column(options.image_column, datasets.Image(decode=False))
    other_features = {name: kind for name, kind in dataset.features.items() if name != options.image_column}
    labels = (options.identity_column, options.caption_column)
    nested = {root_column(label, other_features) for label in labels if label}
    label_features = {name: kind for name, kind in other_features.items() if _is_scalar_feature(kind) or name in nested}
    streamed = isinstance(dataset, datasets.IterableDataset)
    return Dataset(
        parts=[dataset.shard(dataset.num_shards, index) for index in range(dataset.num_shards)]
        if streamed
        else [dataset],
        image_rows=None if streamed else dataset.select_columns([options.image_column]),
        image_column=options.image_column,
        class_names={name: names for name, kind in label_features.items() if (names := _names_of_classes(kind))},
        label_columns=list(label_features),
        version=version,
        image_root=_image_root(source, config),
    )


@contextmanager
def reraise_loading_errors(source: str) -> Iterator[None]:
    """Convert exceptions of loading and listing the dataset to a DataError of one line."""
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:  # reading the rows of a corrupt file raises nearly any exception
        raise DataError(
            f"source {source} cannot be loaded ({failure_of(error)}); check data.source and data.source_options"
        ) from error


def _open(source: str, options: SourceConfig, config: ReadConfig) -> Any:  # noqa: ANN401 - datasets has no types
    streaming_kwargs = {"streaming": options.streaming}
    if source.startswith(HUB_PREFIX):
        return datasets.load_dataset(_hub_name(source), split=options.split, **streaming_kwargs)
    if source.endswith(".arrow") and is_local(source) and not options.streaming:
        return datasets.concatenate_datasets([datasets.Dataset.from_file(path) for path in _files(source)])
    if source.endswith(DATA_FILE_SUFFIXES):
        files = _files(source) if is_local(source) else source
        return datasets.load_dataset(source.rpartition(".")[2], data_files=files, split="train", **streaming_kwargs)
    tree = open_tree(source, config)
    if is_file(tree, "dataset_dict.json"):
        splits = datasets.load_from_disk(source)
        if options.split not in splits:
            raise ConfigError(
                f"dataset {source} has no split {options.split!r}; set data.source_options.split: {', '.join(splits)}"
            )
        return splits[options.split]
    if is_file(tree, "state.json"):
        return datasets.load_from_disk(source)
    return datasets.load_dataset(source, split=options.split, **streaming_kwargs)


def _hub_name(source: str) -> str:
    """Return the full hub URL, so that a local folder of the same name is not loaded instead."""
    return f"hf://datasets/{source.removeprefix(HUB_PREFIX).removeprefix('datasets/')}"


def _files(source: str) -> list[str]:
    """Return the local files that match a pattern, or the one file. Raises DataError if there is none."""
    tree, names = expand_pattern(source, ReadConfig())
    if not names:
        raise DataError(f"source {source}: no such file; give .parquet or .arrow as data.source")
    return [str(Path(tree.url, name)) for name in names]


def _version(source: str, config: ReadConfig, dataset: Any) -> str:  # noqa: ANN401 - datasets has no types
    """Return the fingerprint of a dataset, or the commit on the hub if it is streamed, and the versions of its files.

    Files count only where they are read in place: those of the cache differ between machines.
    """
    if isinstance(dataset, datasets.Dataset):
        in_place = is_local(source) and not source.endswith(".parquet")
        return _digest_of([dataset._fingerprint], [file["filename"] for file in dataset.cache_files] * in_place)
    if source.startswith(HUB_PREFIX):
        return str(huggingface_hub.HfApi().dataset_info(_hub_name(source).removeprefix("hf://datasets/")).sha)
    if source.endswith(DATA_FILE_SUFFIXES) and is_local(source):
        return _digest_of([], _files(source))
    return ""


def _digest_of(names: list[str], files: list[str]) -> str:
    return sha256_json([*names, *(LocalTree("").entry(path).version for path in files)])


def _image_root(source: str, config: ReadConfig) -> FileTree:
    if source.startswith(HUB_PREFIX):
        return LocalTree(".", config)
    return open_parent(source, config)[0] if source.endswith(DATA_FILE_SUFFIXES) else open_tree(source, config)


def _names_of_classes(feature: object) -> list[str]:
    """Return the class names of a feature that holds a class or a list of classes."""
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else []


def _class_name(names: list[str], index: Any) -> Any:  # noqa: ANN401 - a number, a list of numbers or None
    """Return the class name of a number, or those of a list of numbers."""
    if isinstance(index, list):
        return [_class_name(names, item) for item in index]
    return names[index] if index is not None and 0 <= index < len(names) else None


def _is_scalar_feature(feature: object) -> bool:
    return isinstance(feature, datasets.ClassLabel) or (
        isinstance(feature, datasets.Value) and feature.dtype not in ("binary", "large_binary")
    )


ROW_BATCH_SIZE = 256
"""Rows that are listed at a time; for a streamed dataset, their images are held in memory."""


@dataclass(frozen=True)
class DatasetSource:
    """Rows of a memory-mapped or streamed dataset.

    Data from the hub or from parquet is first copied to the Hugging Face cache. With ``streaming`` nothing is copied;
    then the listing reads the whole dataset once, and each worker reads the dataset shards of its rows about once.
    """

    source: str
    options: SourceConfig
    read_config: ReadConfig
    ignored: tuple[Ignored, ...] = ()
    """Other entries of the folder of the data files."""
    handles: "_Handles" = field(default_factory=lambda: _Handles(), compare=False)

    @classmethod
    def from_config(cls, config: PrepareConfig, ignored: tuple[Ignored, ...] = ()) -> "DatasetSource":
        """Build the source from the configuration. Raises ConfigError for patterns, because rows have no paths."""
        if config.read.include or config.read.exclude:
            raise ConfigError(
                f"dataset {config.source} has rows without paths, so data.read.include and data.read.exclude must be "
                "empty; choose rows with data.filters.filter_fn"
            )
        return cls(config.source, config.source_options, config.read, ignored)

    def __iter__(self) -> Iterator[Listed]:
        """List the rows in order. Raises DataError if the dataset cannot be read, ConfigError for a missing column."""
        yield from self.ignored
        row = 0
        with reraise_loading_errors(self.source):
            dataset = load(self.source, self.options, self.read_config)
            for part_index, part in enumerate(dataset.parts):
                first_row = row
                for table in part.with_format("arrow").iter(batch_size=ROW_BATCH_SIZE):
                    has_image_mask = table.column(self.options.image_column).is_valid().to_pylist()
                    for has_image, cells in zip(has_image_mask, dataset.label_rows(table), strict=True):
                        yield self._to_record(row, (part_index, row - first_row), dataset.version, has_image, cells)
                        row += 1

    def read(self, record: Record) -> bytes:
        """Read the image file; see Source."""
        dataset = self.handles.dataset.get("", partial(load, self.source, self.options, self.read_config))
        check_version(self.source, record.version, dataset.version)
        image = with_retries(self.read_config, record.source, lambda: self._image(dataset, record))
        if image and image["bytes"] is not None:
            return limit_size(image["bytes"])
        if not image or not image["path"]:
            raise SampleRejected("no image in row")
        return fetch(dataset.image_root, image["path"], self.read_config)

    def caption(self, record: Record) -> str | None:
        """Return the caption from the caption column."""
        return record.caption

    def _image(self, dataset: Dataset, record: Record) -> dict[str, Any] | None:
        part, row = (int(number) for number in record.location)
        try:
            return dataset.image(part, row, self.handles.streams)
        except IndexError as error:
            raise changed(self.source, str(error)) from error

    def _to_record(
        self, row: int, location: tuple[int, int], version: str, has_image: bool, cells: dict[str, Any]
    ) -> Record | Reject:
        key, source = row_key(row), f"row {row}"
        if not has_image:
            return Reject(key=key, source=source, reason="no image in row")
        return record_from_row(cells, self.options, key=key, source=source, location=location, version=version)


class _Handles:
    """Open handles of a process. They are not pickled: each worker process opens its own."""

    def __init__(self) -> None:
        self.dataset = HandleCache[Dataset]()
        self.streams = HandleCache[SequentialRows[Any]]()

    def __reduce__(self) -> tuple[type["_Handles"], tuple[()]]:
        return type(self), ()
