"""Where pictures come from: folders, archives, shards, tables and Hugging Face datasets."""

from data_prep.config import PrepareConfig
from data_prep.records import Source
from data_prep.sources.archive import ArchiveSource
from data_prep.sources.detect import kind_of
from data_prep.sources.folder import FolderSource
from data_prep.sources.webdataset import ShardSource


def open_source(config: PrepareConfig) -> Source:
    """The configured source; ``data.read.kind`` says what it is, or what it is called and holds does.

    Raises DataError if it is missing, ConfigError if it lacks columns that are configured; some only once it is listed.
    """
    kind = config.source_options.type if config.source_options.type != "auto" else kind_of(config)
    if kind == "folder":
        return FolderSource.of(config)
    if kind == "archive":
        return ArchiveSource.of(config)
    if kind == "shards":
        return ShardSource.of(config)
    # These bring pyarrow and datasets, which take seconds to import.
    if kind == "table":
        from data_prep.sources.table import TableSource

        return TableSource.of(config)
    from data_prep.sources.hugging_face import DatasetSource

    return DatasetSource.of(config)
