"""The manifest of a dataset: which shards it has, how many samples they hold, and their SHA-256 digests."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.config import MANIFEST_NAME
from data_prep.config_dict import SHA256_PATTERN, parse_json, sha256_json
from data_prep.errors import DataError
from data_prep.storage.store import Store

MANIFEST_VERSION = 3
_VERSION_1_KEYS = {"concept": "domain", "codec": "format", "dropped": "reject_counts"}
"""Keys of version 1 and what they are called since version 2."""
_VERSION_3_KEYS = ("retryable_counts", "ignored_counts", "captions_missing")
"""Keys that older versions do not have."""
_NAME_PATTERN, _SHA256_PATTERN = re.compile(r"\w[\w.-]*"), re.compile(SHA256_PATTERN)
"""A dataset may come from a third party: names in its manifest become file names here and must not leave the folder."""


@dataclass(frozen=True)
class Shard:
    """One shard, as the manifest lists it."""

    name: str
    """File name of the tar inside the folder of its split."""
    samples: int
    """Number of images in the shard."""
    bytes: int
    """Size of the tar in bytes."""
    sha256: str
    """SHA-256 of the tar."""

    def __post_init__(self) -> None:
        if not (_NAME_PATTERN.fullmatch(self.name) and _SHA256_PATTERN.fullmatch(self.sha256)):
            raise ValueError(f"{self.name!r} with sha256 {self.sha256!r} is not a valid shard entry")
        if not (type(self.samples) is type(self.bytes) is int and self.samples >= 0 and self.bytes > 0):
            raise ValueError(f"{self.name} cannot have {self.samples} samples in {self.bytes} bytes")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of a prepared dataset (``manifest.json``)."""

    domain: str
    """Word for the domain, such as "face"."""
    resolution: int
    """Width and height of the images in pixels."""
    format: str
    """File extension of the images in the shards: png, webp or jpg."""
    config_digest: str
    """Digest of the ``PrepareConfig`` that produced the dataset."""
    identities: dict[str, int]
    """Number of identities in each split."""
    kept: int
    """Number of images in all shards."""
    reject_counts: dict[str, int]
    """Number of rejected images by reason, including those whose reason may be temporary."""
    splits: dict[str, list[Shard]]
    """Shards of each split, in order."""
    retryable_counts: dict[str, int] = field(default_factory=dict)
    """Number of rejected images by reason, of those that another run of ``e4t prepare`` reads again."""
    ignored_counts: dict[str, int] = field(default_factory=dict)
    """Number of entries of the source by reason that are not images to be read, such as ``hidden``."""
    captions_missing: int = 0
    """Number of images for which the configured caption was not found, so that they have the generated one."""
    version: int = MANIFEST_VERSION
    """Version of the manifest format; an older manifest keeps its version and with it its digest."""

    @property
    def listed(self) -> int:
        """Number of entries of the source: kept, rejected and ignored."""
        return self.kept + sum(self.reject_counts.values()) + sum(self.ignored_counts.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest's content. It covers every shard's digest and therefore identifies the data."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain data, with the keys of its format version."""
        data = asdict(self)
        if self.version < 3:
            data = {key: value for key, value in data.items() if key not in _VERSION_3_KEYS}
        if self.version == 1:
            old_keys = {new: old for old, new in _VERSION_1_KEYS.items()}
            return {old_keys.get(key, key): value for key, value in data.items()}
        return data

    def save(self, store: Store) -> None:
        """Write ``manifest.json`` into the dataset's folder."""
        store.write(MANIFEST_NAME, json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path | str | Store) -> "Manifest":
        """Read ``manifest.json``, of this format version or an older one.

        Raises DataError if the file is missing, malformed, or of a newer version.
        """
        store = folder if isinstance(folder, Store) else Store(str(folder))
        path = store.url_of(MANIFEST_NAME)
        try:
            content = store.read(MANIFEST_NAME)
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing; create the dataset with `e4t prepare`") from error
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}); rerun `e4t prepare` to write it again") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: str) -> "Manifest":
        """Parse the content of ``manifest.json``; ``path`` is for messages. Raises DataError."""
        try:
            data: dict[str, Any] = parse_json(content)
            if data["version"] > MANIFEST_VERSION:
                raise DataError(
                    f"{path} was written by a newer e4t (format {data['version']}, this one reads up to "
                    f"{MANIFEST_VERSION}); upgrade e4t"
                )
            if data["version"] == 1:
                data = {_VERSION_1_KEYS.get(key, key): value for key, value in data.items()}
            if invalid := [split for split in data["splits"] if not _NAME_PATTERN.fullmatch(split)]:
                raise ValueError(f"{invalid[0]!r} is not a valid split name")
            data["splits"] = {split: [Shard(**shard) for shard in shards] for split, shards in data["splits"].items()}
            return cls(**data)._checked()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path} cannot be read ({error}); rerun `e4t prepare` to write it again") from error

    def _checked(self) -> "Manifest":
        """Return the manifest. Raises ValueError if it contradicts itself."""
        for split, shards in self.splits.items():
            names = [shard.name for shard in shards]
            if names != sorted(set(names), key=lambda name: (len(name), name)):
                raise ValueError(f"the shards of {split} are not in order, or one occurs twice")
        samples = sum(shard.samples for shards in self.splits.values() for shard in shards)
        if samples != self.kept:
            raise ValueError(f"its shards have {samples} samples, and it counts {self.kept}")
        return self

    def shards(self, split: str) -> list[Shard]:
        """Return the shards of a split. Raises DataError if the split has no samples."""
        shards = self.splits.get(split, [])
        if not any(shard.samples for shard in shards):
            available = ", ".join(
                f"{name} {sum(shard.samples for shard in split_shards)}" for name, split_shards in self.splits.items()
            )
            raise DataError(
                f"split {split!r} has no images (the dataset has {available}); add identities or change data.splits"
            )
        return shards
