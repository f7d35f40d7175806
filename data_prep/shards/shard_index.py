"""The sidecar: the JSON file beside a shard that says what the shard holds and where every member lies."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.errors import DataError
from data_prep.shards.statistics import Statistics, compute_statistics
from data_prep.storage.store import Store

SHARD_INDEX_VERSION = 1

MemberOffsets = dict[str, dict[str, tuple[int, int]]]
"""Per key, in the tar's order, per extension: offset and size of the data in the tar, in bytes."""


@dataclass(frozen=True, kw_only=True)
class SampleStats:
    """What is known of a picture that was fit."""

    identity: str
    """Who or what it shows."""
    source: str
    """Where it came from."""
    sha256: str
    """Of its file: by this exact copies are found."""
    hash: int | None
    """Perceptual, 64 bits: by this near copies are found, if they are looked for."""
    metrics: dict[str, float]
    """Original width and height, bytes as stored, scores."""


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What is known of one finished shard."""

    shard: str
    """File name of the tar."""
    config_digest: str
    """Of the configuration that made it."""
    plan_digest: str
    """Of the pictures it was made of."""
    samples: int
    """Pictures kept."""
    reject_counts: dict[str, int]
    """Pictures kept out, by reason."""
    rejects: list[dict[str, str]]
    """The same, one by one: key, source, reason."""
    bytes: int
    """Of the tar."""
    sha256: str
    """Of the tar."""
    members: MemberOffsets
    """Where the data lies."""
    sample_stats: dict[str, SampleStats]
    """By key; of every picture that was fit, those included that are left out as copies of others."""
    started: float
    """When the work on it began, in seconds since 1970."""
    seconds: float
    """Spent on it; beside ``started`` all that differs between equal shards."""
    version: int = SHARD_INDEX_VERSION
    """Of this format."""

    @property
    def statistics(self) -> Statistics:
        """Of the pictures kept."""
        return compute_statistics(self.sample_stats[key].metrics for key in self.members)

    def save(self, store: Store, tar: str) -> None:
        """Write it beside the tar."""
        store.write(index_path(tar), json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, store: Store, tar: str) -> "ShardIndex":
        """Read a shard's sidecar. Raises DataError if it is missing, damaged, or of a newer format."""
        name = index_path(tar)
        try:
            data: dict[str, Any] = json.loads(store.read(name))
            if data["version"] > SHARD_INDEX_VERSION:
                raise DataError(
                    f"{store.url_of(name)} was written by a newer e4t (format {data['version']}, this one reads up to "
                    f"{SHARD_INDEX_VERSION}); upgrade e4t"
                )
            data["sample_stats"] = {key: SampleStats(**stats) for key, stats in data["sample_stats"].items()}
            return cls(**data)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"shard {store.url_of(tar)}: its sidecar cannot be read ({error}); rerun `e4t prepare`: only this shard "
                "is rebuilt"
            ) from error


def index_path(tar: str) -> str:
    """The JSON file beside the tar."""
    return tar.removesuffix(".tar") + ".json"
