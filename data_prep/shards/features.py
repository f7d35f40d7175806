"""Cache of features that frozen models compute from every image, stored next to the shards."""

import json
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from data_prep.config import DataLoaderConfig, ProgressCallback
from data_prep.config_dict import differences
from data_prep.errors import DataError, SampleReadError
from data_prep.shards.feature_files import (
    INDEX_NAME,
    REBUILD_HINT,
    VERSION,
    FeatureEntry,
    FeatureTable,
    entry_path,
    features_path,
    load_entry,
    load_fingerprint,
    load_valid_entry,
    write_feature_files,
)
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardReader
from data_prep.storage.atomic import sha256_file
from data_prep.storage.cached_files import CachedFiles, StoredFile
from data_prep.storage.local_cache import FileCache
from data_prep.storage.retrying_store import RetryingStore
from data_prep.storage.store import Store
from e4t_errors import ConfigError

Compute = Callable[[Tensor], dict[str, Tensor]]
"""Maps images (B, 3, H, W), float32 in [-1, 1], to tensors (B, ...) by name."""


def write_features(
    root: str,
    folder: str,
    fingerprint: dict[str, str],
    compute: Compute,
    *,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 32,
    on_progress: ProgressCallback | None = None,
) -> None:
    """Compute the missing features of every ``world_size``-th shard, starting at shard ``rank``.

    ``fingerprint`` describes what the features depend on (models, precision); the digest of the manifest is added.
    Raises ConfigError if the folder holds features with another fingerprint, and DataError if a shard cannot be read or
    the folder cannot be written.
    """
    manifest = Manifest.load(root)
    store = Store(f"{root}/{folder}")
    fingerprint = fingerprint | {"manifest": manifest.digest}
    if store.exists(INDEX_NAME) or any(map(store.listdir, manifest.splits)):
        check_fingerprint(store, fingerprint)
    shards = [
        (split, number) for split, split_shards in manifest.splits.items() for number in range(len(split_shards))
    ][rank::world_size]
    reader = cache(partial(ShardReader, root))  # one reader per split, so that the manifest is read once
    try:
        store.write(INDEX_NAME, json.dumps({"version": VERSION, "fingerprint": fingerprint}, indent=1) + "\n")
        for done, (split, number) in enumerate(shards, 1):
            shard = manifest.splits[split][number]
            if shard.samples and not load_valid_entry(store, split, shard):
                write_feature_files(store, split, shard, _compute_shard(reader(split), number, compute, batch_size))
            if on_progress:
                on_progress(done, len(shards))
    except OSError as error:
        raise DataError(f"features {store.url} cannot be written ({error.strerror or error}); make room") from error


def check_fingerprint(store: Store, fingerprint: dict[str, str]) -> None:
    """Raise ConfigError, naming the differences, if the folder holds features with another fingerprint."""
    changed = differences(load_fingerprint(store), fingerprint)
    if changed:
        details = "; ".join(f"{name}: {old} there, {new} now" for name, old, new in changed)
        raise ConfigError(
            f"features {store.url} were computed for other models or data ({details}); give another cache.folder"
        )


class FeatureReader:
    """Random access to the features of a split. It is safe to use from several threads."""

    def __init__(
        self, root: str, folder: str, split: str, fingerprint: dict[str, str], config: DataLoaderConfig | None = None
    ) -> None:
        """Open the features. Raises ConfigError if their fingerprint differs, DataError if they are incomplete."""
        self._init_args = folder, split, fingerprint, config
        config, self._split = config or DataLoaderConfig(), split
        self._store = RetryingStore(f"{root}/{folder}", config)
        self._files = CachedFiles(self._store, FileCache(config.cache_dir, config.cache_max_bytes))
        manifest = Manifest.load(RetryingStore(root, config))
        check_fingerprint(self._store, fingerprint | {"manifest": manifest.digest})
        self._shards = manifest.shards(split)
        self._check_complete()
        self._cached_shard = lru_cache(maxsize=2 * config.shuffle_window_shards)(self._open_shard)

    def for_dataset(self, root: str) -> "FeatureReader":
        """Open the features of another dataset with the same fingerprint, in a folder of the same name."""
        return FeatureReader(root, *self._init_args)

    def read(self, shard: int, row: int, *, flipped: bool) -> dict[str, Tensor]:
        """Return the tensors of an image, or of its mirror image, by name; fetch a corrupt cached file again.

        Raises SampleReadError.
        """
        name = features_path(self._split, self._shards[shard])
        try:
            try:
                return self._read(shard, row, int(flipped))
            except Exception:
                if self._store.is_local or not self._files.evict_if_corrupt(self._stored_file(shard)):
                    raise
                self._cached_shard.cache_clear()
                return self._read(shard, row, int(flipped))
        except SampleReadError:
            raise
        except Exception as error:  # safetensors raises its own exception type
            message = f"features {self._store.url_of(name)} cannot be read ({error}); rerun `e4t cache`"
            raise SampleReadError(message, sample=f"{name}[{row}]", shard_lost=True) from error

    def _read(self, shard: int, row: int, view: int) -> dict[str, Tensor]:
        table, checksums = self._cached_shard(shard)
        if checksums is not None and checksums[row][view] != table.checksum(row, view):
            name = features_path(self._split, self._shards[shard])
            message = f"features {self._store.url_of(name)}: row {row} does not match its checksum; {REBUILD_HINT}"
            raise SampleReadError(message, sample=f"{name}[{row}]")
        return table.read(row, view)

    def prefetch(self, shard: int) -> None:
        """Fetch the features of a shard in advance. Raises OSError or DataError."""
        self._files.prefetch(self._stored_file(shard))

    def _check_complete(self) -> None:
        """Raise DataError if entries are missing; one listing is enough, as files are checked when they are opened.

        On stores that cannot list folders only the first shard is checked.
        """
        shards = [shard for shard in self._shards if shard.samples]
        existing = set(self._store.listdir(self._split))
        if existing:
            missing = sum(entry_path(self._split, shard) not in existing for shard in shards)
        else:
            missing = 0 if load_entry(self._store, self._split, shards[0]) else len(shards)
        if missing:
            raise DataError(
                f"features {self._store.url}: {missing} of {len(self._shards)} shards of {self._split} have none; "
                "run `e4t cache`"
            )

    def _entry(self, shard: int) -> FeatureEntry:
        entry = load_entry(self._store, self._split, self._shards[shard])
        if entry is None:
            raise DataError("they are missing or belong to another shard")
        return entry

    def _stored_file(self, shard: int) -> StoredFile:
        entry = self._entry(shard)
        return StoredFile(features_path(self._split, self._shards[shard]), entry.bytes, entry.sha256)

    def _open_shard(self, shard: int) -> tuple[FeatureTable, list[list[str]] | None]:
        """Open the features of a shard; return the file and the checksums of its rows.

        A file without checksums is compared with its SHA-256 here. The file is memory-mapped and stays readable after
        the cache has removed it.
        """
        entry = self._entry(shard)
        with self._files.open(self._stored_file(shard)) as file:
            if entry.rows is None and sha256_file(Path(file.name)) != entry.sha256:
                raise DataError("it was changed after it was written")
            with safe_open(file.name, framework="pt") as tensors:
                return FeatureTable({name: tensors.get_tensor(name) for name in tensors.keys()}), entry.rows  # noqa: SIM118


def _compute_shard(reader: ShardReader, shard: int, compute: Compute, batch_size: int) -> dict[str, Tensor]:
    """Return the features of a shard, each (rows, 2, ...): of every image and of its mirror image."""
    parts: list[dict[str, Tensor]] = []
    for start in range(0, reader.counts[shard], batch_size):
        rows = range(start, min(start + batch_size, reader.counts[shard]))
        pixels = torch.stack([reader.read(shard, row).image for row in rows])
        views = [compute(pixels), compute(pixels.flip(-1))]
        parts.append({name: torch.stack([one[name].cpu() for one in views], dim=1) for name in views[0]})
    return {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}
