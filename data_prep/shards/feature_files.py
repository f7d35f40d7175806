"""Files of cached features: for each shard a safetensors file, and an entry file with its digest and checksums."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from data_prep.config_dict import parse_json
from data_prep.errors import DataError
from data_prep.shards.checksum import checksum
from data_prep.shards.manifest import Manifest, Shard
from data_prep.storage.store import Store

VERSION = 2
INDEX_NAME = "features.json"
_VERSION_1_FINGERPRINT_KEYS = {"autoencoder": "vae", "picture tower": "image_encoder"}
"""Fingerprint keys that version 1 wrote and what they are called since version 2."""
REBUILD_HINT = "delete the file and rerun `e4t cache`"


def load_fingerprint(store: Store) -> dict[str, str]:
    """Read the recorded fingerprint. Raises DataError if the file is missing, malformed or of a newer version."""
    path = store.url_of(INDEX_NAME)
    try:
        index = parse_json(store.read(INDEX_NAME))
        if index["version"] > VERSION:
            raise DataError(f"{path} was written by a newer e4t (format {index['version']}); upgrade e4t")
        if index["version"] == 1:
            return {_VERSION_1_FINGERPRINT_KEYS.get(key, key): value for key, value in index["made_for"].items()}
        return dict(index["fingerprint"])
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run `e4t cache`; if the folder has files, delete it first") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete {store.url} and rerun `e4t cache`") from error


@dataclass(frozen=True, kw_only=True)
class FeatureEntry:
    """Describes the features of one shard."""

    shard: str
    """SHA-256 of the shard that the features were computed from."""
    sha256: str
    """SHA-256 of the features file."""
    bytes: int
    """Size of the features file in bytes."""
    rows: list[list[str]] | None = None
    """Checksums of the features of each image and of its mirror image; None in files of older versions."""


class FeatureTable:
    """Features of one shard by row and view: view 0 is an image, view 1 its mirror image."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors (rows, 2, ...) by name."""
        self._tensors = dict(sorted(tensors.items()))
        self._bytes = [
            (f"{name} {tensor.dtype} {list(tensor.shape)}", _as_bytes(tensor)) for name, tensor in self._tensors.items()
        ]

    def read(self, row: int, view: int) -> dict[str, Tensor]:
        """Return the features of an image as views of the table."""
        return {name: tensor[row, view] for name, tensor in self._tensors.items()}

    def checksum(self, row: int, view: int) -> str:
        """Return the checksum of the features of an image, of their names, types and shapes, and of their position."""
        parts = (part for name, array in self._bytes for part in (name, array[row, view].data))
        return checksum(f"{row} {view}", *parts)


def _as_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """Return a tensor (rows, 2, ...) as bytes (rows, 2, n) in the same memory."""
    array: NDArray[np.uint8] = tensor.reshape(len(tensor), 2, -1).view(torch.uint8).numpy()
    return array


def write_feature_files(store: Store, split: str, shard: Shard, tensors: dict[str, Tensor]) -> None:
    """Write the features of a shard, each (rows, 2, ...), and their entry, which is written last."""
    data = save(tensors)
    table = FeatureTable(tensors)
    rows = [[table.checksum(row, view) for view in (0, 1)] for row in range(shard.samples)]
    entry = FeatureEntry(shard=shard.sha256, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), rows=rows)
    store.delete(entry_path(split, shard))
    store.write(features_path(split, shard), data)
    store.write(entry_path(split, shard), json.dumps(asdict(entry)) + "\n")


def load_entry(store: Store, split: str, shard: Shard) -> FeatureEntry | None:
    """Return the entry of the shard's features, or None if there is none for exactly this shard."""
    try:
        entry = FeatureEntry(**parse_json(store.read(entry_path(split, shard))))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    has_all_rows = entry.rows is None or [len(row) for row in entry.rows] == [2] * shard.samples
    return entry if entry.shard == shard.sha256 and has_all_rows else None


def load_valid_entry(store: Store, split: str, shard: Shard) -> FeatureEntry | None:
    """Return the entry of the shard's features if the file has the recorded size, else None."""
    entry = load_entry(store, split, shard)
    return entry if entry and store.size(features_path(split, shard)) == entry.bytes else None


def verify_features(root: str, folder: str) -> Iterator[str]:
    """Check the SHA-256 of every file and the checksum of every row; yield one line for each problem."""
    store, manifest = Store(f"{root}/{folder}"), Manifest.load(root)
    try:
        if load_fingerprint(store).get("manifest") != manifest.digest:
            yield f"features {store.url} were computed for other data; give another cache.folder"
            return
    except DataError as error:
        yield str(error)
        return
    for split, shards in manifest.splits.items():
        for shard in shards:
            if shard.samples:
                yield from _file_problems(store, split, shard)


def _file_problems(store: Store, split: str, shard: Shard) -> Iterator[str]:
    entry, file = load_valid_entry(store, split, shard), store.url_of(features_path(split, shard))
    if entry is None:
        yield f"features {file} are missing or belong to another shard; rerun `e4t cache`"
        return
    try:
        data = store.read(features_path(split, shard))
    except OSError as error:
        yield f"features {file} cannot be read ({error.strerror or error}); check the disk or the connection"
        return
    damaged = list(_damaged_rows(data, entry))
    if damaged:
        rows = ", ".join(f"{shard.name}[{row}]" for row in damaged[:8]) + (", ..." if len(damaged) > 8 else "")
        yield f"features {file} of {len(damaged)} images do not match their checksums ({rows}); {REBUILD_HINT}"
    elif hashlib.sha256(data).hexdigest() != entry.sha256:
        yield f"features {file} were changed after they were written; {REBUILD_HINT}"


def _damaged_rows(data: bytes, entry: FeatureEntry) -> Iterator[int]:
    if entry.rows is None:
        return
    try:
        table = FeatureTable(load(data))
    except (SafetensorError, ValueError, RuntimeError):  # damage of the file's header
        yield from range(len(entry.rows))
        return
    for row, checksums in enumerate(entry.rows):
        try:
            if checksums != [table.checksum(row, view) for view in (0, 1)]:
                yield row
        except IndexError:
            yield row


def features_path(split: str, shard: Shard) -> str:
    """Return the path of the features of a shard."""
    return f"{split}/{shard.name.removesuffix('.tar')}.safetensors"


def entry_path(split: str, shard: Shard) -> str:
    """Return the path of the entry file of a shard's features."""
    return f"{split}/{shard.name.removesuffix('.tar')}.json"
