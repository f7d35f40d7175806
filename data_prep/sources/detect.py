"""Detect the type of a source from its name and, for folders and parquet files, from its content."""

from itertools import islice
from typing import Literal

from data_prep.config import PrepareConfig
from data_prep.sources.archive_files import is_archive
from data_prep.sources.filesystem import FileTree, is_file, is_folder, is_local, open_tree
from data_prep.sources.webdataset import has_manifest

SourceType = Literal["folder", "archive", "shards", "table", "datasets"]

HUB_PREFIX = "hf://"


def detect_type(config: PrepareConfig) -> SourceType:
    """Return the type for ``data.source_options.type: auto``. Raises DataError if a file to inspect is missing.

    A missing source of unknown type counts as a folder; opening it reports that it is missing.
    """
    source, name = config.source, config.source.lower()
    tree = open_tree(source) if is_local(source) else None
    if tree and is_folder(tree):
        return _detect_folder_type(tree)
    if name.startswith(HUB_PREFIX) or name.endswith(".arrow"):
        return "datasets"
    if "{" in name and is_archive(name):
        return "shards"
    if name.endswith(".parquet"):
        return _detect_parquet_type(config)
    if name.endswith((".csv", ".tsv")):
        return "table"
    if is_archive(name) or "*" in name:
        return "archive"
    return _detect_folder_type(tree or open_tree(source))


def _detect_folder_type(tree: FileTree) -> SourceType:
    if not is_folder(tree):
        return "folder"
    if has_manifest(tree):
        return "shards"
    if is_file(tree, "dataset_dict.json") or (is_file(tree, "dataset_info.json") and is_file(tree, "state.json")):
        return "datasets"
    names = (name for name in tree.names() if not name.startswith("."))
    first = list(islice(names, 1))
    return "archive" if first and all(is_archive(name) for name in [*first, *names]) else "folder"


def _detect_parquet_type(config: PrepareConfig) -> SourceType:
    """Return ``table`` if the image column holds strings (paths), else ``datasets``."""
    if "*" in config.source:
        return "datasets"
    from data_prep.sources.table import parquet_text_columns

    return "table" if config.source_options.image_column in parquet_text_columns(config) else "datasets"
