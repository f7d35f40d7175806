"""Single samples of a split, found by their offsets. Knows no torch: processes that only decode start in a blink."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.config import StreamConfig
from data_prep.errors import DataError, Unreadable
from data_prep.shards.manifest import Manifest
from data_prep.shards.shard_index import Sidecar
from data_prep.storage.cached_files import SetFiles, Short, StoredFile
from data_prep.storage.local_cache import FileCache
from data_prep.storage.retrying_store import PatientStore

CHECK = "run `e4t prepare --verify` to list damaged shards"
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class About:
    """What is known of a stored picture."""

    key: str
    """Name in the shards."""
    identity: str
    """Who or what it shows."""
    caption: str
    """Its own, or the set's template."""


class _Place(NamedTuple):
    key: str
    about: tuple[int, int]
    """Offset and size."""
    picture: tuple[int, int]
    """Offset and size."""


class StoredSamples:
    """A split's samples by shard and row, on this machine's disk or at a URL. Any number of threads may read."""

    def __init__(
        self, root: Path | str, split: str, config: StreamConfig | None = None, *, manifest: Manifest | None = None
    ) -> None:
        """Open a split; ``manifest`` is the set's own if it has been read. Raises DataError if there is no sample."""
        self.config = config or StreamConfig()
        store = PatientStore(str(root), self.config)
        self.manifest = manifest or Manifest.load(store)
        self.files = SetFiles(store, FileCache(self.config.cache_folder, self.config.cache_bytes))
        shards = self.manifest.shards(split)
        self.shards = [StoredFile(f"{split}/{shard.name}", shard.bytes, shard.sha256) for shard in shards]
        self.counts = [shard.samples for shard in shards]
        self._places = lru_cache(maxsize=2 * self.config.window_shards)(self._load_places)

    def about(self, shard: int, row: int) -> About:
        """What is known of the sample at ``row`` of a shard. Raises Unreadable."""
        place = self._place(shard, row)
        data = self._read(shard, row, *place.about)
        with self._decoding(shard, place.key):
            return _about(place, data)

    def picture(self, shard: int, row: int) -> tuple[About, Pixels]:
        """The same, and the picture, (H, W, 3). Raises Unreadable."""
        try:
            return self._picture(shard, row)
        except Unreadable:
            if not self.files.discard_if_damaged(self.shards[shard]):
                raise
            return self._picture(shard, row)

    def _picture(self, shard: int, row: int) -> tuple[About, Pixels]:
        place = self._place(shard, row)
        first = min(place.about[0], place.picture[0])
        end = max(sum(place.about), sum(place.picture))
        data = self._read(shard, row, first, end - first)
        about, picture = (data[at - first : at - first + size] for at, size in (place.about, place.picture))
        with self._decoding(shard, place.key):
            return _about(place, about), self._decode(picture)

    @contextmanager
    def _decoding(self, shard: int, key: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a decoder answers damaged bytes with nearly anything
            raise self._unreadable(shard, key, error) from error

    def _decode(self, data: bytes) -> Pixels:
        with Image.open(io.BytesIO(data), formats=[FORMATS[self.manifest.codec]]) as image:
            if image.size != (self.manifest.resolution,) * 2:
                raise ValueError(f"it is {image.width} x {image.height}, not {self.manifest.resolution} pixels square")
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))

    def _read(self, shard: int, row: int, offset: int, size: int) -> bytes:
        try:
            return self.files.read(self.shards[shard], offset, size)
        except FileNotFoundError as error:
            message, whole = f"shard {self.where(shard)} is missing; {CHECK}", True
            raise Unreadable(message, sample=self.name(shard, row), whole_shard=whole) from error
        except Short as error:  # what comes before the end is as good as ever
            raise self._unreadable(shard, self._place(shard, row).key, error) from error
        except OSError as error:
            raise self._unreadable(shard, self.name(shard, row), error, whole_shard=True) from error

    def _unreadable(self, shard: int, sample: str, error: Exception, *, whole_shard: bool = False) -> Unreadable:
        message = f"shard {self.where(shard)}: sample {sample} cannot be read ({error}); {CHECK}"
        return Unreadable(message, sample=sample, whole_shard=whole_shard)

    def name(self, shard: int, row: int) -> str:
        """What a sample is called when its key cannot be known."""
        return f"{self.shards[shard].name}[{row}]"

    def where(self, shard: int) -> str:
        """The shard's full name, for messages."""
        return self.files.store.where(self.shards[shard].name)

    def _place(self, shard: int, row: int) -> _Place:
        try:
            return self._places(shard)[row]
        except DataError as error:
            raise Unreadable(str(error), sample=self.name(shard, row), whole_shard=True) from error

    def _load_places(self, shard: int) -> list[_Place]:
        wanted, codec = self.shards[shard], self.manifest.codec
        sidecar = Sidecar.load(self.files.store, wanted.name)
        if (sidecar.sha256, len(sidecar.members)) != (wanted.sha256, self.counts[shard]):
            raise DataError(
                f"shard {self.where(shard)}: its sidecar is of another shard ({len(sidecar.members)} samples, "
                f"the manifest has {self.counts[shard]}); {CHECK}"
            )
        try:
            return [
                _Place(key, _offset_and_size(parts["json"]), _offset_and_size(parts[codec]))
                for key, parts in sidecar.members.items()
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"shard {self.where(shard)}: its sidecar has no place for some member ({error}); {CHECK}"
            ) from error


def _about(place: _Place, data: bytes) -> About:
    about = json.loads(data)
    return About(place.key, about["identity"], about["caption"])


def _offset_and_size(place: tuple[int, int]) -> tuple[int, int]:
    offset, size = place
    return offset, size
