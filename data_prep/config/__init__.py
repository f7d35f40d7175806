"""Configuration of ``e4t prepare`` and of the data loader (recipe sections ``data`` and ``stream``)."""

from collections.abc import Callable

from data_prep.config.loader import DataLoaderConfig
from data_prep.config.prepare import (
    BUILTIN_SCORES,
    HASH_DISTANCE_LIMIT,
    PIL_FORMATS,
    PILLOW_MAX_PIXELS,
    WEBP_MAX_SIDE,
    FilterConfig,
    PrepareConfig,
    SplitFractions,
)
from data_prep.config.source import ReadConfig, SourceConfig

MANIFEST_NAME = "manifest.json"
"""File in a dataset's folder that lists its shards; it is written last and marks a finished dataset."""
ProgressCallback = Callable[[int, int], None]
"""Called with the number of finished units of work and their total."""

__all__ = [
    "BUILTIN_SCORES",
    "HASH_DISTANCE_LIMIT",
    "MANIFEST_NAME",
    "PILLOW_MAX_PIXELS",
    "PIL_FORMATS",
    "WEBP_MAX_SIDE",
    "DataLoaderConfig",
    "FilterConfig",
    "PrepareConfig",
    "ProgressCallback",
    "ReadConfig",
    "SourceConfig",
    "SplitFractions",
]
