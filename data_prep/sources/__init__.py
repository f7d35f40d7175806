"""Image sources: folders, archives, webdataset shards, tables and Hugging Face datasets."""

from data_prep.config import PrepareConfig
from data_prep.records import Source
from data_prep.sources import img2dataset
from data_prep.sources.archives.archive import ArchiveSource
from data_prep.sources.archives.webdataset import ShardSource
from data_prep.sources.detect import detect_type, with_data_files
from data_prep.sources.folder import FolderSource
from e4t_errors import ConfigError


def open_source(config: PrepareConfig) -> Source:
    """Return the source that the configuration names.

    With ``data.source_options.type: auto`` the type is detected from the name and the content of ``data.source``.
    Raises DataError if the source is missing and ConfigError if it lacks a configured column; some sources raise these
    only when they are listed.
    """
    source_type = config.source_options.type if config.source_options.type != "auto" else detect_type(config)
    if source_type == "folder":
        return FolderSource.from_config(img2dataset.adapt_folder(config))
    if source_type == "archive":
        return ArchiveSource.from_config(config)
    _refuse_side_tables(config, source_type)
    if source_type == "shards":
        return ShardSource.from_config(config)
    config, ignored = with_data_files(config)
    config = img2dataset.adapt_parquet(config)
    # Imported late: pyarrow and datasets take seconds to import.
    if source_type == "table":
        from data_prep.sources.tables.table import TableSource

        return TableSource.from_config(config, ignored)
    from data_prep.sources.tables.hugging_face import DatasetSource

    return DatasetSource.from_config(config, ignored)


def _refuse_side_tables(config: PrepareConfig, source_type: str) -> None:
    for name in ("identities", "attributes"):
        if getattr(config.source_options, name):
            raise ConfigError(
                f"data.source_options.{name} is for folders and archives, and the source {config.source} is of type "
                f"{source_type}: put its columns into the source, or check data.source_options.type"
            )
