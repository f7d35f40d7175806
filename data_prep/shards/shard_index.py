"""The shard index: the JSON file next to a shard with the byte offset of every member and statistics of the samples."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.errors import DataError
from data_prep.records import Reject
from data_prep.shards.statistics import Statistics, compute_statistics
from data_prep.storage.store import Store

SHARD_INDEX_VERSION = 3
_VERSION_1_KEYS = {"dropped": "reject_counts", "facts": "sample_stats", "numbers": "metrics"}
"""Keys of version 1, of the index and of its samples, and what they are called since version 2."""

MemberOffsets = dict[str, dict[str, tuple[int, int]]]
"""Offset and size in bytes of each member's data in the tar, by sample key and file extension, in the tar's order."""


@dataclass(frozen=True, kw_only=True)
class SampleStats:
    """Properties of an image that passed the filters; duplicates are found by them."""

    identity: str
    """Person or object in the image."""
    source: str
    """Where the image came from, in readable form."""
    sha256: str
    """SHA-256 of the original file; equal digests are exact duplicates."""
    hash: int | None
    """64-bit perceptual hash, by which near duplicates are found; None if they are not searched for."""
    metrics: dict[str, float]
    """Original width and height in pixels, stored size in bytes, and scores."""


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Index of one finished shard."""

    shard: str
    """File name of the tar."""
    config_digest: str
    """Digest of the ``PrepareConfig`` that produced the shard."""
    plan_digest: str
    """Digest of the records that the shard was made from."""
    samples: int
    """Number of images in the shard."""
    reject_counts: dict[str, int]
    """Number of rejected images by reason."""
    rejects: list[Reject]
    """Rejected images."""
    captions_missing: int
    """Number of images for which the configured caption was not found, so that they have the generated one."""
    bytes: int
    """Size of the tar in bytes."""
    sha256: str
    """SHA-256 of the tar."""
    members: MemberOffsets
    """Byte ranges of the members."""
    sample_stats: dict[str, SampleStats]
    """Statistics by sample key, including images that were left out as duplicates."""
    started: float
    """Start of the work on the shard, as a Unix timestamp in seconds."""
    seconds: float
    """Duration of the work. Equal shards differ only in this and ``started``."""
    version: int = SHARD_INDEX_VERSION
    """Version of the index format."""

    @property
    def statistics(self) -> Statistics:
        """Statistics over the images in the shard."""
        return compute_statistics(self.sample_stats[key].metrics for key in self.members)

    def save(self, store: Store, tar: str) -> None:
        """Write the index next to the tar."""
        store.write(index_path(tar), json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, store: Store, tar: str) -> "ShardIndex":
        """Read a shard's index. Raises DataError if it is missing, malformed, or of a newer version."""
        name = index_path(tar)
        try:
            data: dict[str, Any] = json.loads(store.read(name))
            if data["version"] > SHARD_INDEX_VERSION:
                raise DataError(
                    f"{store.url_of(name)} was written by a newer e4t (format {data['version']}, this one reads up to "
                    f"{SHARD_INDEX_VERSION}); upgrade e4t"
                )
            if data["version"] == 1:
                data = _rename_keys(data)
                data["sample_stats"] = {key: _rename_keys(stats) for key, stats in data["sample_stats"].items()}
            data["rejects"] = [Reject(**reject) for reject in data["rejects"]]
            data.setdefault("captions_missing", 0)  # since version 3
            data["version"] = SHARD_INDEX_VERSION
            data["sample_stats"] = {key: SampleStats(**stats) for key, stats in data["sample_stats"].items()}
            return cls(**data)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"shard {store.url_of(tar)}: its index cannot be read ({error}); rerun `e4t prepare`: only this shard "
                "is rebuilt"
            ) from error


def index_path(tar: str) -> str:
    """Return the path of the index that belongs to a tar."""
    return tar.removesuffix(".tar") + ".json"


def _rename_keys(data: dict[str, Any]) -> dict[str, Any]:
    return {_VERSION_1_KEYS.get(key, key): value for key, value in data.items()}
