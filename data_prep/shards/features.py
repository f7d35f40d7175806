"""Cache of features that frozen models compute from every image, stored next to the shards."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, lru_cache, partial

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from data_prep.config import DataLoaderConfig, ProgressCallback
from data_prep.config_dict import differences
from data_prep.errors import DataError, SampleReadError
from data_prep.shards.manifest import Manifest, Shard
from data_prep.shards.reader import ShardReader
from data_prep.storage.cached_files import CachedFiles, StoredFile
from data_prep.storage.local_cache import FileCache
from data_prep.storage.retrying_store import RetryingStore
from data_prep.storage.store import Store
from e4t_errors import ConfigError

VERSION = 2
INDEX_NAME = "features.json"
_VERSION_1_FINGERPRINT_KEYS = {"autoencoder": "vae", "picture tower": "image_encoder"}
"""Fingerprint keys that version 1 wrote and what they are called since version 2."""
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
    check_fingerprint(store, fingerprint)
    shards = [
        (split, number) for split, split_shards in manifest.splits.items() for number in range(len(split_shards))
    ][rank::world_size]
    reader = cache(partial(ShardReader, root))  # one reader per split, so that the manifest is read once
    try:
        store.write(INDEX_NAME, json.dumps({"version": VERSION, "fingerprint": fingerprint}, indent=1) + "\n")
        for done, (split, number) in enumerate(shards, 1):
            shard = manifest.splits[split][number]
            if shard.samples and not _valid_entry(store, split, shard):
                _write_shard(store, split, shard, _compute_shard(reader(split), number, compute, batch_size))
            if on_progress:
                on_progress(done, len(shards))
    except OSError as error:
        raise DataError(f"features {store.url} cannot be written ({error.strerror or error}); make room") from error


def check_fingerprint(store: Store, fingerprint: dict[str, str]) -> None:
    """Raise ConfigError, naming the differences, if the folder holds features with another fingerprint."""
    with suppress(FileNotFoundError):
        index = json.loads(store.read(INDEX_NAME))
        if index["version"] == 1:
            recorded = {_VERSION_1_FINGERPRINT_KEYS.get(key, key): value for key, value in index["made_for"].items()}
        else:
            recorded = index["fingerprint"]
        changed = differences(recorded, fingerprint)
        if changed:
            details = "; ".join(f"{name}: {old} there, {new} now" for name, old, new in changed)
            raise ConfigError(
                f"features {store.url} were computed for other models or data ({details}); give another cache.folder"
            )


def verify_features(root: str, folder: str) -> Iterator[str]:
    """Check the SHA-256 of every file; yield one line for each that is missing or differs."""
    store = Store(f"{root}/{folder}")
    for split, shards in Manifest.load(root).splits.items():
        for shard in shards:
            if not shard.samples:
                continue
            entry = _valid_entry(store, split, shard)
            file = store.url_of(_features_path(split, shard))
            if entry is None:
                yield f"features {file} are missing or belong to another shard; rerun `e4t cache`"
            elif hashlib.sha256(store.read(_features_path(split, shard))).hexdigest() != entry["sha256"]:
                yield f"features {file} were changed after they were written; delete the file and rerun `e4t cache`"


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
        """Return the tensors of an image, or of its mirror image, by name. Raises SampleReadError."""
        try:
            file = self._cached_shard(shard)
            return {name: file.get_slice(name)[row, int(flipped)] for name in file.keys()}  # noqa: SIM118 - no dict
        except Exception as error:  # safetensors raises its own exception type
            name = _features_path(self._split, self._shards[shard])
            message = f"features {self._store.url_of(name)} cannot be read ({error}); rerun `e4t cache`"
            raise SampleReadError(message, sample=f"{name}[{row}]", shard_lost=True) from error

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
            missing = sum(_entry_path(self._split, shard) not in existing for shard in shards)
        else:
            missing = 0 if _entry(self._store, self._split, shards[0]) else len(shards)
        if missing:
            raise DataError(
                f"features {self._store.url}: {missing} of {len(self._shards)} shards of {self._split} have none; "
                "run `e4t cache`"
            )

    def _stored_file(self, shard: int) -> StoredFile:
        entry = _entry(self._store, self._split, self._shards[shard])
        if entry is None:
            raise DataError("they are missing or belong to another shard")
        return StoredFile(_features_path(self._split, self._shards[shard]), int(entry["bytes"]), str(entry["sha256"]))

    def _open_shard(self, shard: int) -> safe_open:
        # The file is memory-mapped and stays readable after the cache has removed it.
        with self._files.open(self._stored_file(shard)) as file:
            return safe_open(file.name, framework="pt")


def _compute_shard(reader: ShardReader, shard: int, compute: Compute, batch_size: int) -> dict[str, Tensor]:
    """Return the features of a shard, each (rows, 2, ...): of every image and of its mirror image."""
    parts: list[dict[str, Tensor]] = []
    for start in range(0, reader.counts[shard], batch_size):
        rows = range(start, min(start + batch_size, reader.counts[shard]))
        pixels = torch.stack([reader.read(shard, row).image for row in rows])
        views = [compute(pixels), compute(pixels.flip(-1))]
        parts.append({name: torch.stack([one[name].cpu() for one in views], dim=1) for name in views[0]})
    return {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}


def _write_shard(store: Store, split: str, shard: Shard, tensors: dict[str, Tensor]) -> None:
    data = save(tensors)
    entry = {"shard": shard.sha256, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    store.delete(_entry_path(split, shard))
    store.write(_features_path(split, shard), data)
    store.write(_entry_path(split, shard), json.dumps(entry) + "\n")


def _entry(store: Store, split: str, shard: Shard) -> dict[str, str | int] | None:
    """Return the entry of the shard's features, or None if there is none for exactly this shard."""
    try:
        entry: dict[str, str | int] = json.loads(store.read(_entry_path(split, shard)))
    except (FileNotFoundError, ValueError):
        return None
    return entry if {"sha256", "bytes"} <= entry.keys() and entry.get("shard") == shard.sha256 else None


def _valid_entry(store: Store, split: str, shard: Shard) -> dict[str, str | int] | None:
    """Return the entry of the shard's features if the file has the recorded size, else None."""
    entry = _entry(store, split, shard)
    return entry if entry and store.size(_features_path(split, shard)) == entry["bytes"] else None


def _features_path(split: str, shard: Shard) -> str:
    return f"{split}/{shard.name.removesuffix('.tar')}.safetensors"


def _entry_path(split: str, shard: Shard) -> str:
    return f"{split}/{shard.name.removesuffix('.tar')}.json"
