"""The manifest: what a set of shards holds, and by which digests to check it."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.config import digest_of
from data_prep.errors import DataError
from data_prep.shards.shard_index import Sidecar
from data_prep.storage.store import Store

MANIFEST_VERSION = 1
FILE = "manifest.json"
_NAME, _SHA256 = re.compile(r"\w[\w.-]*"), re.compile(r"[0-9a-f]{64}")
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
        if not (_NAME.fullmatch(self.name) and _SHA256.fullmatch(self.sha256)):
            raise ValueError(f"{self.name!r} with sha256 {self.sha256!r} is no shard")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole set."""

    concept: str
    """The domain's word."""
    resolution: int
    """Side of the pictures, in pixels."""
    codec: str
    """The pictures' extension in the shards."""
    config_digest: str
    """Of the configuration that made the set."""
    identities: dict[str, int]
    """Identities (the set's classes) a split."""
    kept: int
    """Pictures in all shards."""
    dropped: dict[str, int]
    """Pictures kept out, by reason."""
    splits: dict[str, list[Shard]]
    """Each split's shards, in order."""
    version: int = MANIFEST_VERSION
    """Of this format."""

    @property
    def digest(self) -> str:
        """Sha256 of the manifest's content, which names every shard's sha256: it stands for the data."""
        return digest_of(asdict(self))

    def save(self, store: Store) -> None:
        """Write manifest.json."""
        store.write(FILE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path | str | Store) -> "Manifest":
        """Read manifest.json. Raises DataError if it is missing, broken, or of a newer format."""
        store = folder if isinstance(folder, Store) else Store(str(folder))
        path = store.where(FILE)
        try:
            data: dict[str, Any] = json.loads(store.read(FILE))
            if data["version"] > MANIFEST_VERSION:
                raise DataError(
                    f"{path} was written by a newer e4t (format {data['version']}, this one reads up to "
                    f"{MANIFEST_VERSION}); upgrade e4t"
                )
            if wrong := [split for split in data["splits"] if not _NAME.fullmatch(split)]:
                raise ValueError(f"{wrong[0]!r} is no split")
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
            there = ", ".join(f"{name} {sum(shard.samples for shard in found)}" for name, found in self.splits.items())
            raise DataError(
                f"split {split!r} has no picture (the set has {there}); add identities or change data.splits"
            )
        return shards


def verify(folder: Path | str) -> Iterator[str]:
    """Recheck every shard's sha256 and sidecar; yields one line for each shard that is missing or differs."""
    store = Store(str(folder))
    for split, shards in Manifest.load(folder).splits.items():
        for shard in shards:
            fault = _fault(f"{split}/{shard.name}", shard, store)
            if fault:
                yield fault


def _fault(tar: str, shard: Shard, store: Store) -> str | None:
    path, remedy = store.where(tar), "delete it and rerun `e4t prepare`: only it is rebuilt"
    size = store.size(tar)
    if size is None:
        return f"shard {path} is missing; rerun `e4t prepare`: only it is rebuilt"
    if size != shard.bytes:
        return f"shard {path} was changed after it was written ({size} bytes, not {shard.bytes}); {remedy}"
    with store.open(tar) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            return f"shard {path} was changed after it was written (sha256 differs); {remedy}"
    try:
        sidecar = Sidecar.load(store, tar)
    except DataError as error:
        return str(error)
    if (sidecar.sha256, sidecar.samples, len(sidecar.members)) != (shard.sha256, shard.samples, shard.samples):
        return f"shard {path}: its sidecar is of another shard; {remedy}"
    return None
