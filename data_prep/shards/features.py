"""What frozen models see in every picture, computed once and kept beside the shards."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, lru_cache, partial

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from data_prep.config import StreamConfig
from data_prep.config_diff import differences
from data_prep.errors import ConfigError, DataError, Unreadable
from data_prep.shards.manifest import Manifest, Shard
from data_prep.shards.reader import ShardReader
from data_prep.storage.cached_files import SetFiles, StoredFile
from data_prep.storage.local_cache import FileCache
from data_prep.storage.retrying_store import PatientStore
from data_prep.storage.store import Store

VERSION = 1
INDEX = "features.json"
Compute = Callable[[Tensor], dict[str, Tensor]]
"""Pictures (B, 3, H, W) in [-1, 1] to tensors (B, ...) by name."""
Watch = Callable[[int, int], None]
FLIPS = 2
"""Every picture is stored as it is and mirrored: tensors are (rows, 2, ...)."""


def write_features(
    root: str,
    folder: str,
    purpose: dict[str, str],
    compute: Compute,
    *,
    rank: int = 0,
    world: int = 1,
    batch_size: int = 32,
    watch: Watch | None = None,
) -> None:
    """Compute the features of every ``world``-th shard from ``rank`` on that has none yet.

    ``purpose`` names what they hold for (models, precision); the set's own digest is added. Raises ConfigError if the
    folder holds features for another purpose, DataError if a shard cannot be read or the folder not be written.
    """
    manifest = Manifest.load(root)
    store = Store(f"{root}/{folder}")
    purpose = purpose | {"manifest": manifest.digest}
    check_purpose(store, purpose)
    shards = [(split, number) for split, found in manifest.splits.items() for number in range(len(found))][rank::world]
    reader = cache(partial(ShardReader, root))  # one a split, which reads the manifest once
    try:
        store.write(INDEX, json.dumps({"version": VERSION, "made_for": purpose}, indent=1) + "\n")
        for done, (split, number) in enumerate(shards, 1):
            shard = manifest.splits[split][number]
            if shard.samples and not _whole_note(store, split, shard):
                _write(store, split, shard, _computed(reader(split), number, compute, batch_size))
            if watch:
                watch(done, len(shards))
    except OSError as error:
        raise DataError(f"features {store.url} cannot be written ({error.strerror or error}); make room") from error


def check_purpose(store: Store, purpose: dict[str, str]) -> None:
    """Raise ConfigError, with the difference, if the features there are made for something else."""
    with suppress(FileNotFoundError):
        there = json.loads(store.read(INDEX))["made_for"]
        changed = differences(there, purpose)
        if changed:
            shown = "; ".join(f"{name}: {then} there, {now} now" for name, then, now in changed)
            raise ConfigError(f"features {store.url} are made for something else ({shown}); give another cache.folder")


def verify_features(root: str, folder: str) -> Iterator[str]:
    """Recheck every file's sha256; yields one line for each that is missing or differs."""
    store = Store(f"{root}/{folder}")
    for split, shards in Manifest.load(root).splits.items():
        for shard in shards:
            if not shard.samples:
                continue
            note = _whole_note(store, split, shard)
            file = store.where(_file(split, shard))
            if note is None:
                yield f"features {file} are missing or of another shard; rerun `e4t cache`"
            elif hashlib.sha256(store.read(_file(split, shard))).hexdigest() != note["sha256"]:
                yield f"features {file} were changed after they were written; delete the file and rerun `e4t cache`"


class FeatureReader:
    """Features of a split, row by row. Any number of threads may read."""

    def __init__(
        self, root: str, folder: str, split: str, purpose: dict[str, str], config: StreamConfig | None = None
    ) -> None:
        """Open them. Raises ConfigError if they are made for something else, DataError if they are not complete."""
        self._made = folder, split, purpose, config
        config, self._split = config or StreamConfig(), split
        self._store = PatientStore(f"{root}/{folder}", config)
        self._files = SetFiles(self._store, FileCache(config.cache_folder, config.cache_bytes))
        manifest = Manifest.load(PatientStore(root, config))
        check_purpose(self._store, purpose | {"manifest": manifest.digest})
        self._shards = manifest.shards(split)
        self._check_complete()
        self._open = lru_cache(maxsize=2 * config.window_shards)(self._opened)

    def beside(self, root: str) -> "FeatureReader":
        """Features of another set, made for the same purpose and kept in a folder of the same name."""
        return FeatureReader(root, *self._made)

    def read(self, shard: int, row: int, *, flipped: bool) -> dict[str, Tensor]:
        """Tensors by name, of one picture or its mirror image. Raises Unreadable."""
        try:
            file = self._open(shard)
            return {name: file.get_slice(name)[row, int(flipped)] for name in file.keys()}  # noqa: SIM118 - no dict
        except Exception as error:  # safetensors has errors of its own
            name = _file(self._split, self._shards[shard])
            message = f"features {self._store.where(name)} cannot be read ({error}); rerun `e4t cache`"
            raise Unreadable(message, sample=f"{name}[{row}]", whole_shard=True) from error

    def fetch_ahead(self, shard: int) -> None:
        """Have a shard's features ready. Raises OSError or DataError."""
        self._files.fetch_ahead(self._stored(shard))

    def _check_complete(self) -> None:
        """Tell what is missing by one listing; each file is looked at when it is opened.

        Some stores cannot list: there the first one stands for all.
        """
        shards = [shard for shard in self._shards if shard.samples]
        there = set(self._store.names(self._split))
        if there:
            missing = sum(_note_of(self._split, shard) not in there for shard in shards)
        else:
            missing = 0 if _note(self._store, self._split, shards[0]) else len(shards)
        if missing:
            raise DataError(
                f"features {self._store.url}: {missing} of {len(self._shards)} shards of {self._split} have none; "
                "run `e4t cache`"
            )

    def _stored(self, shard: int) -> StoredFile:
        note = _note(self._store, self._split, self._shards[shard])
        if note is None:
            raise DataError("they are missing, or of another shard")
        return StoredFile(_file(self._split, self._shards[shard]), int(note["bytes"]), str(note["sha256"]))

    def _opened(self, shard: int) -> safe_open:
        # Mapped into memory: it stays readable when the cache has removed the file.
        with self._files.opened(self._stored(shard)) as file:
            return safe_open(file.name, framework="pt")


def _computed(reader: ShardReader, shard: int, compute: Compute, batch_size: int) -> dict[str, Tensor]:
    parts: list[dict[str, Tensor]] = []
    for start in range(0, reader.counts[shard], batch_size):
        rows = range(start, min(start + batch_size, reader.counts[shard]))
        pixels = torch.stack([reader.read(shard, row).image for row in rows])
        both = [compute(pixels), compute(pixels.flip(-1))]
        parts.append({name: torch.stack([one[name].cpu() for one in both], dim=1) for name in both[0]})
    return {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}


def _write(store: Store, split: str, shard: Shard, tensors: dict[str, Tensor]) -> None:
    data = save(tensors)
    note = {"shard": shard.sha256, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    store.delete(_note_of(split, shard))
    store.write(_file(split, shard), data)
    store.write(_note_of(split, shard), json.dumps(note) + "\n")


def _note(store: Store, split: str, shard: Shard) -> dict[str, str | int] | None:
    """The note of this very shard's features, if there is one."""
    try:
        note: dict[str, str | int] = json.loads(store.read(_note_of(split, shard)))
    except (FileNotFoundError, ValueError):
        return None
    return note if {"sha256", "bytes"} <= note.keys() and note.get("shard") == shard.sha256 else None


def _whole_note(store: Store, split: str, shard: Shard) -> dict[str, str | int] | None:
    """The same, if the features lie there unharmed as far as their size tells."""
    note = _note(store, split, shard)
    return note if note and store.size(_file(split, shard)) == note["bytes"] else None


def _file(split: str, shard: Shard) -> str:
    return f"{split}/{shard.name.removesuffix('.tar')}.safetensors"


def _note_of(split: str, shard: Shard) -> str:
    return f"{split}/{shard.name.removesuffix('.tar')}.json"
