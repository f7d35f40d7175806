"""Recognize what img2dataset wrote, and read it without further settings.

Its output is a folder with ``00000_stats.json`` for every shard and, depending on ``output_format``, ``00000.tar``
(which are webdataset shards), a folder ``00000`` of images, or ``00000.parquet`` with the images in it.
"""

import re
from dataclasses import replace

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.sources.archives.archive_files import first_file
from data_prep.sources.files.filesystem import FileTree, is_folder, open_tree

IMAGE_COLUMNS = ("jpg", "png", "webp")
"""Columns of its parquet files that hold the images, by ``encode_format``."""


def adapt_folder(config: PrepareConfig) -> PrepareConfig:
    """Make every image of its folders an identity of its own, because the folders are numbers of shards."""
    if config.source_options.identities or config.source_options.pattern != SourceConfig().pattern:
        return config
    if not _has_statistics(open_tree(config.source, config.read)):
        return config
    return replace(config, source_options=replace(config.source_options, pattern="{shard}/{identity}"))


def adapt_parquet(config: PrepareConfig) -> PrepareConfig:
    """Read the images and the captions of its parquet files."""
    options = config.source_options
    if options.image_column != SourceConfig().image_column or not config.source.lower().endswith(".parquet"):
        return config
    tree, name = first_file(config.source, config.read)
    if not name:
        return config
    from data_prep.sources.tables.table import parquet_columns  # imported late: pyarrow takes long to import

    columns = parquet_columns(tree, name)
    image_column = next((column for column in IMAGE_COLUMNS if column in columns), None)
    if options.image_column in columns or image_column is None or not {"key", "status"} <= set(columns):
        return config
    caption_column = options.caption_column or ("caption" if "caption" in columns else None)
    return replace(config, source_options=replace(options, image_column=image_column, caption_column=caption_column))


def _has_statistics(tree: FileTree) -> bool:
    return is_folder(tree) and any(re.fullmatch(r"\d+_stats\.json", name) for name in tree.names())
