"""The sidecar: the JSON file beside a shard that says what the shard holds and where every member lies."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import write_whole

SIDECAR_VERSION = 1

Members = dict[str, dict[str, tuple[int, int]]]
"""Per key, in the tar's order, per extension: offset and size of the data in the tar, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What is known of one finished shard."""

    shard: str
    """File name of the tar."""
    config_digest: str
    """Of the configuration that made it."""
    plan_digest: str
    """Of the pictures and captions it was made of."""
    samples: int
    """Pictures kept."""
    dropped: dict[str, int]
    """Pictures kept out, by reason."""
    rejects: list[dict[str, str]]
    """The same, one by one: key, source, reason."""
    bytes: int
    """Of the tar."""
    sha256: str
    """Of the tar."""
    seconds: float
    """Spent on it; the one field that differs between equal shards."""
    members: Members
    """Where the data lies."""
    version: int = SIDECAR_VERSION
    """Of this format."""

    def save(self, tar: Path) -> None:
        """Write it beside the tar."""
        write_whole(path_of(tar), json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, tar: Path) -> "Sidecar":
        """Read a shard's sidecar. Raises DataError if it is missing, damaged, or of a newer format."""
        path = path_of(tar)
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if data["version"] > SIDECAR_VERSION:
                raise DataError(
                    f"{path} was written by a newer e4t (format {data['version']}, this one reads up to "
                    f"{SIDECAR_VERSION}); upgrade e4t"
                )
            return cls(**data)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"shard {tar}: its sidecar cannot be read ({error}); rerun `e4t prepare`: only this shard is rebuilt"
            ) from error


def path_of(tar: Path) -> Path:
    """The JSON file beside the tar."""
    return tar.with_suffix(".json")
