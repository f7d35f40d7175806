"""The manifest: what a set of shards holds, and by which digests to check it."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.config import sha256_json
from data_prep.errors import DataError
from data_prep.shards.shard_index import ShardIndex
from data_prep.storage.store import Store

MANIFEST_VERSION = 1
MANIFEST_NAME = "manifest.json"
_NAME_PATTERN, _SHA256_PATTERN = re.compile(r"\w[\w.-]*"), re.compile(r"[0-9a-f]{64}")
"""A set may be somebody else's: what its manifest says becomes names of files here, and must not lead elsewhere."""


@dataclass(frozen=True)
class Shard:
    """A shard as the manifest knows it."""

    name: str
    """File name of the tar, in the split's folder."""
    samples: int
    """Pictures in it."""
    bytes: int
    """Of the tar."""
    sha256: str
    """Of the tar."""

    def __post_init__(self) -> None:
        if not (_NAME_PATTERN.fullmatch(self.name) and _SHA256_PATTERN.fullmatch(self.sha256)):
            raise ValueError(f"{self.name!r} with sha256 {self.sha256!r} is no shard")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole set."""

    domain: str
    """The domain's word."""
    resolution: int
    """Side of the pictures, in pixels."""
    format: str
    """The pictures' extension in the shards."""
    config_digest: str
    """Of the configuration that made the set."""
    identities: dict[str, int]
    """Identities (the set's classes) a split."""
    kept: int
    """Pictures in all shards."""
    reject_counts: dict[str, int]
    """Pictures kept out, by reason."""
    splits: dict[str, list[Shard]]
    """Each split's shards, in order."""
    version: int = MANIFEST_VERSION
    """Of this format."""

    @property
    def digest(self) -> str:
        """Sha256 of the manifest's content, which names every shard's sha256: it stands for the data."""
        return sha256_json(asdict(self))

    def save(self, store: Store) -> None:
        """Write manifest.json."""
        store.write(MANIFEST_NAME, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path | str | Store) -> "Manifest":
        """Read manifest.json. Raises DataError if it is missing, broken, or of a newer format."""
        store = folder if isinstance(folder, Store) else Store(str(folder))
        path = store.url_of(MANIFEST_NAME)
        try:
            data: dict[str, Any] = json.loads(store.read(MANIFEST_NAME))
            if data["version"] > MANIFEST_VERSION:
                raise DataError(
                    f"{path} was written by a newer e4t (format {data['version']}, this one reads up to "
                    f"{MANIFEST_VERSION}); upgrade e4t"
                )
            if invalid := [split for split in data["splits"] if not _NAME_PATTERN.fullmatch(split)]:
                raise ValueError(f"{invalid[0]!r} is no split")
            data["splits"] = {split: [Shard(**shard) for shard in shards] for split, shards in data["splits"].items()}
            return cls(**data)
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing; make the set with `e4t prepare`") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path} cannot be read ({error}); rerun `e4t prepare`: it is written anew") from error

    def shards(self, split: str) -> list[Shard]:
        """A split's shards. Raises DataError if it has no sample."""
        shards = self.splits.get(split, [])
        if not any(shard.samples for shard in shards):
            available = ", ".join(
                f"{name} {sum(shard.samples for shard in split_shards)}" for name, split_shards in self.splits.items()
            )
            raise DataError(
                f"split {split!r} has no picture (the set has {available}); add identities or change data.splits"
            )
        return shards


def verify_shards(folder: Path | str) -> Iterator[str]:
    """Recheck every shard's sha256 and sidecar; yields one line for each shard that is missing or differs."""
    store = Store(str(folder))
    for split, shards in Manifest.load(folder).splits.items():
        for shard in shards:
            problem = _shard_problem(f"{split}/{shard.name}", shard, store)
            if problem:
                yield problem


def _shard_problem(tar: str, shard: Shard, store: Store) -> str | None:
    path, hint = store.url_of(tar), "delete it and rerun `e4t prepare`: only it is rebuilt"
    size = store.size(tar)
    if size is None:
        return f"shard {path} is missing; rerun `e4t prepare`: only it is rebuilt"
    if size != shard.bytes:
        return f"shard {path} was changed after it was written ({size} bytes, not {shard.bytes}); {hint}"
    with store.open(tar) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            return f"shard {path} was changed after it was written (sha256 differs); {hint}"
    try:
        index = ShardIndex.load(store, tar)
    except DataError as error:
        return str(error)
    if (index.sha256, index.samples, len(index.members)) != (shard.sha256, shard.samples, shard.samples):
        return f"shard {path}: its sidecar is of another shard; {hint}"
    return None
