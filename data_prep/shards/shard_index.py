"""The shard index: the JSON file next to a shard that locates every member and holds statistics of the samples."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from data_prep.config_dict import parse_json
from data_prep.errors import DataError
from data_prep.records import Reject
from data_prep.shards.checksum import checksum
from data_prep.shards.statistics import Statistics, compute_statistics
from data_prep.storage.store import Store

SHARD_INDEX_VERSION = 3
_VERSION_1_KEYS = {"dropped": "reject_counts", "facts": "sample_stats", "numbers": "metrics"}
"""Keys of version 1, of the index and of its samples, and what they are called since version 2."""

TAR_HEADER_BYTES = 512
"""Size of the header that precedes the data of each member."""


class Member(NamedTuple):
    """Location and checksum of the data of one member of a tar."""

    offset: int
    """Offset of the data in the tar in bytes."""
    size: int
    """Size of the data in bytes."""
    checksum: str | None = None
    """Checksum of name and data; None in an index of version 1 or 2."""

    def check(self, name: str, data: bytes) -> None:
        """Raise ValueError if these are not the data of the member with this name."""
        if len(data) != self.size or (self.checksum is not None and self.checksum != checksum(name, data)):
            raise ValueError(f"{name.rpartition('.')[2]}: its bytes are not those that were written")


Members = dict[str, dict[str, Member]]
"""Members of a tar by sample key and file extension, in the tar's order."""


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
    caption_missing: bool = False
    """Whether the configured caption was not found, so that the image has the generated one."""


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
    bytes: int
    """Size of the tar in bytes."""
    sha256: str
    """SHA-256 of the tar."""
    members: Members
    """Location and checksum of every member."""
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

    @property
    def captions_missing(self) -> int:
        """Number of images in the shard for which the configured caption was not found."""
        return sum(self.sample_stats[key].caption_missing for key in self.members)

    def save(self, store: Store, tar: str) -> None:
        """Write the index next to the tar."""
        # vars instead of asdict, which copies every value and takes as long as a tenth of the work on small images.
        store.write(index_path(tar), json.dumps(self, default=vars) + "\n")

    @classmethod
    def load(cls, store: Store, tar: str) -> "ShardIndex":
        """Read a shard's index. Raises DataError if it is missing, malformed, or of a newer version."""
        name = index_path(tar)
        try:
            data: dict[str, Any] = parse_json(store.read(name))
            if data["version"] > SHARD_INDEX_VERSION:
                raise DataError(
                    f"{store.url_of(name)} was written by a newer e4t (format {data['version']}, this one reads up to "
                    f"{SHARD_INDEX_VERSION}); upgrade e4t"
                )
            if data["version"] == 1:
                data = _rename_keys(data)
                data["sample_stats"] = {key: _rename_keys(stats) for key, stats in data["sample_stats"].items()}
            data["rejects"] = [Reject(**reject) for reject in data["rejects"]]
            data["members"] = _parse_members(data["members"], data["bytes"], has_checksums=data["version"] >= 3)
            data["version"] = SHARD_INDEX_VERSION
            data["sample_stats"] = {key: SampleStats(**stats) for key, stats in data["sample_stats"].items()}
            return cls(**data)._checked()
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"shard {store.url_of(tar)}: its index cannot be read ({error}); rerun `e4t prepare`: only this shard "
                "is rebuilt"
            ) from error
        except OSError as error:
            raise DataError(
                f"shard {store.url_of(tar)}: its index cannot be read ({error}); check the disk or the connection"
            ) from error

    def _checked(self) -> "ShardIndex":
        """Return the index. Raises ValueError if it contradicts itself."""
        if len(self.members) != self.samples:
            raise ValueError(f"it lists {len(self.members)} samples and counts {self.samples}")
        if missing := self.members.keys() - self.sample_stats.keys():
            raise ValueError(f"it lacks the statistics of {len(missing)} samples, among them {min(missing)}")
        return self


def index_path(tar: str) -> str:
    """Return the path of the index that belongs to a tar."""
    return tar.removesuffix(".tar") + ".json"


def _rename_keys(data: dict[str, Any]) -> dict[str, Any]:
    return {_VERSION_1_KEYS.get(key, key): value for key, value in data.items()}


def _parse_members(data: dict[str, dict[str, list[Any]]], tar_bytes: int, *, has_checksums: bool) -> Members:
    """Return the members. Raises ValueError unless their byte ranges follow each other and lie in the tar."""
    members = {key: {extension: Member(*part) for extension, part in parts.items()} for key, parts in data.items()}
    end = 0
    for key, parts in members.items():
        for extension, (offset, size, digest) in parts.items():
            if not (type(offset) is type(size) is int and size >= 0 and offset >= end + TAR_HEADER_BYTES):
                raise ValueError(f"{key}.{extension} cannot have {size} bytes at byte {offset} of the tar")
            if isinstance(digest, str) != has_checksums:
                raise ValueError(f"{key}.{extension} has the checksum {digest!r}")
            end = offset + size
    if end > tar_bytes:
        raise ValueError(f"its members end at byte {end} of a tar of {tar_bytes} bytes")
    return members
