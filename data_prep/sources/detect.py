"""Detect the type of a source from its name and, for folders, tars and parquet files, from its content."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Literal

from data_prep.config import PrepareConfig
from data_prep.credentials import redact
from data_prep.errors import DataError
from data_prep.records import Ignored
from data_prep.sources.archives.archive_files import (
    ARCHIVE_SUFFIXES,
    TAR_SUFFIXES,
    find_archives,
    first_file,
    is_archive,
    is_pattern,
    split_pattern,
)
from data_prep.sources.archives.shard_files import are_shards, has_manifest
from data_prep.sources.files.failures import ReadFailed
from data_prep.sources.files.filesystem import (
    FileTree,
    is_file,
    is_folder,
    is_local,
    open_parent,
    open_tree,
    split_chain,
)
from data_prep.sources.names import escape
from data_prep.sources.selection import PACKED_SUFFIXES, Selection, is_hidden, is_image_path, other_reason
from data_prep.sources.tables.text_tables import TEXT_TABLE_SUFFIXES

SourceType = Literal["folder", "archive", "shards", "table", "datasets"]

HUB_PREFIX = "hf://"
DATA_FILE_SUFFIXES = (".parquet", ".arrow")
INSPECTED_NAMES = 10_000
"""Names in a folder that tell its type."""
INSPECTED_FOLDERS = 20


def detect_type(config: PrepareConfig) -> SourceType:
    """Return the type for ``data.source_options.type: auto``.

    Raises DataError if a file to inspect is missing, and for files that are recognized but cannot be read. A missing
    source of unknown type counts as a folder; opening it reports that it is missing.
    """
    source, name = config.source, split_chain(config.source)[0].lower()
    tree = open_tree(source, config.read) if is_local(source) else None
    if tree and is_folder(tree):
        return _detect_folder_type(tree, config)
    if name.startswith(HUB_PREFIX):
        return "datasets"
    if name.endswith(DATA_FILE_SUFFIXES):
        return _detect_data_file_type(config)
    if name.endswith(TEXT_TABLE_SUFFIXES):
        return "table"
    if is_archive(name):
        return _detect_archive_type(config)
    if name == source.lower():  # otherwise a folder in an archive
        _refuse_unreadable(source)
    return "archive" if is_pattern(source) else _detect_folder_type(tree or open_tree(source, config.read), config)


def with_data_files(config: PrepareConfig) -> tuple[PrepareConfig, tuple[Ignored, ...]]:
    """Return the configuration with a pattern of the parquet or arrow files instead of the folder that holds them.

    Also returns the other entries of the folder.
    """
    if config.source.startswith(HUB_PREFIX) or config.source.lower().endswith(
        (*DATA_FILE_SUFFIXES, *TEXT_TABLE_SUFFIXES)
    ):
        return config, ()
    tree = open_tree(config.source, config.read)
    if not is_folder(tree) or any(is_file(tree, name) for name in ("dataset_dict.json", "state.json")):
        return config, ()
    suffixes = {PurePosixPath(name).suffix for name in _visible_names(tree)}
    suffix = next((suffix for suffix in DATA_FILE_SUFFIXES if suffix in suffixes), None)
    if suffix is None:
        return config, ()
    others = (
        f"{entry.name}/" if entry.kind == "folder" else entry.name
        for entry in tree.entries("", lambda _: False)
        if is_hidden(entry.name) or not entry.name.endswith(suffix)
    )
    ignored = tuple(Ignored(source=escape(name), reason=_reason_beside_tables(name)) for name in others)
    return replace(config, source=f"{tree.url}/*{suffix}"), ignored


def _reason_beside_tables(name: str) -> str:
    if is_hidden(name.rstrip("/")):
        return "hidden"
    return "folder beside tables" if name.endswith("/") else other_reason(name)


def _detect_folder_type(tree: FileTree, config: PrepareConfig) -> SourceType:
    if not is_folder(tree):
        return "folder"
    if has_manifest(tree):
        return "shards"
    if is_file(tree, "dataset_dict.json") or (is_file(tree, "dataset_info.json") and is_file(tree, "state.json")):
        return "datasets"
    names = _visible_names(tree)
    if any(is_image_path(name) for name in names):
        return "folder"
    folders = [name for name in names if not name.startswith("_") and _is_subfolder(tree, name)]
    if folders:
        return _detect_type_of_subfolders(tree, folders[:INSPECTED_FOLDERS])
    if any(is_archive(name) for name in names):
        return _detect_archive_type(config)
    data_files = [name for name in names if name.endswith(DATA_FILE_SUFFIXES)]
    return _data_file_type(tree, data_files[0], config) if data_files else "folder"


def _detect_type_of_subfolders(tree: FileTree, folders: Sequence[str]) -> SourceType:
    """Return the type of a folder with subfolders. Raises DataError if these contain archives and nothing else."""
    inside = [[entry.name for entry in tree.entries(name, lambda _: False)] for name in folders]
    if folders == ["data"] and any(name.endswith(".parquet") for name in inside[0]):
        return "datasets"  # a repository of the Hugging Face hub
    if all(names and all(is_archive(name) for name in names if not is_hidden(name)) for names in inside):
        suffix = PurePosixPath(inside[0][-1]).suffix
        raise DataError(
            f"source {tree.url} holds archives in subfolders; give a pattern as data.source, such as "
            f"{tree.url}/*/*{suffix}"
        )
    return "folder"


def _detect_archive_type(config: PrepareConfig) -> SourceType:
    """Return ``shards`` for brace patterns of tars, and for tars that look like webdataset shards."""
    if "{" in split_pattern(config.source)[1]:
        return "shards" if config.source.lower().endswith(TAR_SUFFIXES) else "archive"
    try:
        files = find_archives(config.source, Selection(config.read))
    except DataError:
        return "archive"  # opening it reports what is wrong
    return "shards" if are_shards(files, config.source_options) else "archive"


def _detect_data_file_type(config: PrepareConfig) -> SourceType:
    tree, name = first_file(config.source, config.read)
    return _data_file_type(tree, name, config) if name else "datasets"


def _data_file_type(tree: FileTree, name: str, config: PrepareConfig) -> SourceType:
    """Return ``table`` if the image column of a parquet file holds strings (paths), else ``datasets``."""
    if not name.lower().endswith(".parquet"):
        return "datasets"
    from data_prep.sources.tables.table import parquet_columns  # imported late: pyarrow takes long to import

    return "table" if parquet_columns(tree, name).get(config.source_options.image_column) else "datasets"


def _refuse_unreadable(source: str) -> None:
    """Raise DataError for files that are recognized but cannot be read."""
    if is_local(source) and not is_pattern(source):
        tree, name = open_parent(source)
        if not is_file(tree, name):
            return
    if source.lower().endswith(PACKED_SUFFIXES):
        raise DataError(f"source {source} is packed in a form that cannot be read; repack it as .zip, .tar or .tar.gz")
    path, query, _ = source.partition("?")
    if query and path.lower().endswith((*ARCHIVE_SUFFIXES, *DATA_FILE_SUFFIXES, *TEXT_TABLE_SUFFIXES)):
        raise DataError(
            f"source {redact(source)} has a query after the name of the file, which must come last; give a URL without "
            "it, or download the file"
        )
    if is_image_path(source) and is_pattern(source):
        raise DataError(
            f"source {source} is a pattern of images; give their folder as data.source and the pattern, relative to "
            "that folder, as data.read.include"
        )
    if is_image_path(source):
        raise DataError(f"source {source} is a single image; give the folder that it is in as data.source")
    if is_local(source) and not is_pattern(source):
        raise DataError(
            f"source {source} is a file of another kind; give a folder, an archive ({', '.join(ARCHIVE_SUFFIXES)}), "
            "a table (.csv, .tsv, .jsonl, .txt, .parquet) or a dataset as data.source"
        )


def _visible_names(tree: FileTree) -> list[str]:
    """Return the names in a folder up to the first image, or ``INSPECTED_NAMES`` of them, sorted."""
    names = list[str]()
    for name in islice((name for name in tree.names() if not is_hidden(name)), INSPECTED_NAMES):
        names.append(name)
        if is_image_path(name):
            break
    return sorted(names)


def _is_subfolder(tree: FileTree, name: str) -> bool:
    try:
        return tree.entry(name).kind == "folder"
    except ReadFailed:
        return False
