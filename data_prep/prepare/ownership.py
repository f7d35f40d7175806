"""Make sure that a dataset's output replaces and deletes only files that ``e4t prepare`` wrote."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from data_prep.config import MANIFEST_NAME, PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.plan import (
    DATASET_CONFIG_NAME,
    OLD_DATASET_CONFIG_NAME,
    REJECTS_NAME,
    STATISTICS_NAME,
    WORK_DIR,
    final_path,
)
from data_prep.prepare.splits import SPLITS
from data_prep.shards.manifest import Manifest
from data_prep.shards.shard_index import index_path
from data_prep.storage.store import Store
from e4t_errors import ConfigError

FINALIZING_NAME = f"{WORK_DIR}/finalizing.json"
"""List of the shards that a merge has begun to write, so that a later run knows them as ours after a crash."""
OUTPUT_FILES = (MANIFEST_NAME, DATASET_CONFIG_NAME, REJECTS_NAME, STATISTICS_NAME)
"""Files of a dataset beside its shards."""
_SHARD_FILE = re.compile(rf"(?P<split>{'|'.join(SPLITS)})/(?P=split)-\d{{6,}}\.(tar|json)")
_NAMED_IN_MESSAGE = 3


def check_output(config: PrepareConfig, store: Store) -> None:
    """Check, before anything is written, that the output can be written without touching files of anyone else.

    Raises ConfigError if the output is the source, lies inside it, or holds it under a name that the dataset needs, and
    if it holds files that ``e4t prepare`` did not write under such a name.
    """
    _check_overlap(config)
    foreign = _foreign_names(store)
    if foreign:
        names = ", ".join(foreign[:_NAMED_IN_MESSAGE])
        more = f" and {len(foreign) - _NAMED_IN_MESSAGE} more" if len(foreign) > _NAMED_IN_MESSAGE else ""
        raise ConfigError(
            f"output {config.output} holds files that `e4t prepare` did not write, under names that it needs "
            f"({names}{more}); give another data.output or move them away"
        )


def record_finalizing(shards: list[str], store: Store) -> None:
    """Record the shards that a merge is about to write."""
    store.write(FINALIZING_NAME, json.dumps(shards) + "\n")


def is_shard_file(name: str) -> bool:
    """Return whether a path relative to the output is that of a shard or of its index."""
    return bool(_SHARD_FILE.fullmatch(name))


@contextmanager
def output_lock(store: Store, *, exclusive: bool) -> Iterator[None]:
    """Lock the output: workers share it, a merge needs it alone. Raises DataError if another job has it.

    The lock ends with the process, however it ends. Remote stores and file systems without locks on folders are not
    locked.
    """
    if not store.is_local:
        yield
        return
    folder = Path(store.root)
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, store, exclusive=exclusive)
        yield
    finally:
        os.close(descriptor)
        if created and not any(folder.iterdir()):
            folder.rmdir()


def _lock(descriptor: int, store: Store, *, exclusive: bool) -> None:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(
            f"output {store.url}: another `e4t prepare` is working there; wait until it ends, or give another "
            "data.output"
        ) from None
    except OSError:  # network file systems that cannot lock folders
        return


def _check_overlap(config: PrepareConfig) -> None:
    """Raise ConfigError if source and output overlap so that one would read or replace the other's files."""
    output = _resolve(config.output)
    options = config.source_options
    for setting, location in (
        ("data.source", config.source),
        ("data.source_options.identities", options.identities),
        ("data.source_options.attributes", options.attributes),
    ):
        if not location:
            continue
        place = _resolve(location)
        needed = [f"{output}/{name}" for name in (*OUTPUT_FILES, *SPLITS, WORK_DIR)]
        if place == output or any(place == name or place.startswith(f"{name}/") for name in needed):
            raise ConfigError(
                f"{setting} {location} lies where the dataset in data.output {config.output} is written and would be "
                "replaced; give another data.output"
            )
        if output.startswith(f"{place}/") or fnmatchcase(f"{output}/{final_path('train-000000')}", place):
            raise ConfigError(
                f"data.output {config.output} lies inside {setting} {location}, so that the next run would read the "
                "dataset as its own source; give a folder outside it"
            )


def _resolve(location: str) -> str:
    """Return an absolute path without links, or a URL, in a form that can be compared; patterns stay patterns."""
    if "://" in location.removeprefix("file://"):
        return re.sub(r"(?<!:)/+", "/", location).rstrip("/")
    return os.path.realpath(Path(location.removeprefix("file://")).expanduser())


def _foreign_names(store: Store) -> list[str]:
    """Return the names that the dataset needs and that files have which ``e4t prepare`` did not write, sorted."""
    if not _is_our_dataset(store):
        files = [name for name in OUTPUT_FILES if store.exists(name)]
        return sorted([*files, *(name for split in SPLITS for name in _content(store, split))])
    existing = {name for split in SPLITS for name in _content(store, split) if is_shard_file(name) or name == split}
    unrecorded = existing - _recorded_names(store)
    return sorted(name for name in unrecorded if not _has_our_index(name, store))


def _content(store: Store, split: str) -> list[str]:
    """Return what a split's folder holds, or the name itself if that is a file."""
    if not store.exists(split):
        return []
    names = [name for name in store.listdir(split) if name != split]
    return names if names or store.fs.isdir(f"{store.root}/{split}") else [split]


def _is_our_dataset(store: Store) -> bool:
    """Return whether the output holds the settings that ``e4t prepare`` records before it writes shards."""
    if store.exists(OLD_DATASET_CONFIG_NAME) and not store.exists(DATASET_CONFIG_NAME):
        return True  # refused with a message of its own
    return _is_object_with(store, DATASET_CONFIG_NAME, "domain", "source_options")


def _recorded_names(store: Store) -> set[str]:
    """Return the files of shards that the dataset's own files record."""
    tars = set[str]()
    try:
        splits = Manifest.load(store).splits
        tars |= {f"{split}/{shard.name}" for split, shards in splits.items() for shard in shards}
    except DataError:
        pass
    if store.exists(FINALIZING_NAME):
        tars |= {final_path(name) for name in json.loads(store.read(FINALIZING_NAME))}
    return tars | {index_path(tar) for tar in tars}


def _has_our_index(name: str, store: Store) -> bool:
    """Return whether the shard index with or next to this name was written by ``e4t prepare``."""
    return is_shard_file(name) and _is_object_with(store, index_path(name), "config_digest", "plan_digest", "members")


def _is_object_with(store: Store, name: str, *keys: str) -> bool:
    try:
        content = json.loads(store.read(name))
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return False
    return isinstance(content, dict) and set(keys) <= content.keys()
