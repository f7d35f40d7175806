"""Where pictures come from: folders, archives, shards, tables and Hugging Face datasets."""

from data_prep.config import PrepareConfig
from data_prep.records import Source
from data_prep.sources.archive import ArchiveSource
from data_prep.sources.detect import detect_type
from data_prep.sources.folder import FolderSource
from data_prep.sources.webdataset import ShardSource


def open_source(config: PrepareConfig) -> Source:
    """The configured source; ``data.source_options.type`` says what it is, or what it is called and holds does.

    Raises DataError if it is missing, ConfigError if it lacks columns that are configured; some only once it is listed.
    """
    source_type = config.source_options.type if config.source_options.type != "auto" else detect_type(config)
    if source_type == "folder":
        return FolderSource.from_config(config)
    if source_type == "archive":
        return ArchiveSource.from_config(config)
    if source_type == "shards":
        return ShardSource.from_config(config)
    # These bring pyarrow and datasets, which take seconds to import.
    if source_type == "table":
        from data_prep.sources.table import TableSource

        return TableSource.from_config(config)
    from data_prep.sources.hugging_face import DatasetSource

    return DatasetSource.from_config(config)
