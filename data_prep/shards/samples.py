"""Random access to the samples of a split by byte offset, without torch, so that decoding processes start quickly."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.config import PIL_FORMATS, DataLoaderConfig
from data_prep.errors import DataError, SampleReadError
from data_prep.shards.manifest import Manifest
from data_prep.shards.shard_index import Member, ShardIndex
from data_prep.storage.cached_files import CachedFiles, StoredFile, TruncatedFile
from data_prep.storage.local_cache import FileCache
from data_prep.storage.retrying_store import RetryingStore

VERIFY_HINT = "run `e4t prepare --verify` to list damaged shards"
Pixels = NDArray[np.uint8]
Result = TypeVar("Result")


@dataclass(frozen=True)
class SampleMetadata:
    """Metadata of a stored image."""

    key: str
    """Sample key in the shards."""
    identity: str
    """Person or object in the image."""
    caption: str
    """The image's own caption, or the one generated from ``data.caption_template``."""


class _SampleMembers(NamedTuple):
    key: str
    metadata: Member
    """The JSON file."""
    image: Member
    """The image file."""


class ShardSamples:
    """Samples of a split by shard and row, from a local disk or a URL. It is safe to use from several threads."""

    def __init__(
        self, root: Path | str, split: str, config: DataLoaderConfig | None = None, *, manifest: Manifest | None = None
    ) -> None:
        """Open a split; ``manifest`` saves reading it again. Raises DataError if the split has no samples."""
        self.config = config or DataLoaderConfig()
        store = RetryingStore(str(root), self.config)
        self.manifest = manifest or Manifest.load(store)
        self.files = CachedFiles(store, FileCache(self.config.cache_dir, self.config.cache_max_bytes))
        shards = self.manifest.shards(split)
        self.shards = [StoredFile(f"{split}/{shard.name}", shard.bytes, shard.sha256) for shard in shards]
        self.counts = [shard.samples for shard in shards]
        self._index = lru_cache(maxsize=2 * self.config.shuffle_window_shards)(self._load_index)

    def metadata(self, shard: int, row: int) -> SampleMetadata:
        """Read the metadata of a sample; fetch a corrupt cached shard again. Raises SampleReadError."""
        return self._with_sound_copy(shard, lambda: self._read_metadata(shard, row))

    def read_image(self, shard: int, row: int) -> tuple[SampleMetadata, Pixels]:
        """Read metadata and pixels (H, W, 3) uint8; fetch a corrupt cached shard again. Raises SampleReadError."""
        return self._with_sound_copy(shard, lambda: self._read_image(shard, row))

    def _with_sound_copy(self, shard: int, read: Callable[[], Result]) -> Result:
        try:
            return read()
        except SampleReadError:
            if not self.files.evict_if_corrupt(self.shards[shard]):
                raise
            return read()

    def _read_metadata(self, shard: int, row: int) -> SampleMetadata:
        sample = self._members(shard, row)
        data = self._read(shard, row, sample.metadata.offset, sample.metadata.size)
        with self._decode_errors(shard, sample.key):
            return _parse_metadata(sample, data)

    def _read_image(self, shard: int, row: int) -> tuple[SampleMetadata, Pixels]:
        sample = self._members(shard, row)
        members = sample.metadata, sample.image
        first = min(member.offset for member in members)
        end = max(member.offset + member.size for member in members)
        data = self._read(shard, row, first, end - first)
        metadata, image = (data[member.offset - first : member.offset - first + member.size] for member in members)
        with self._decode_errors(shard, sample.key):
            sample.image.check(f"{sample.key}.{self.manifest.format}", image)
            return _parse_metadata(sample, metadata), self._decode(image)

    @contextmanager
    def _decode_errors(self, shard: int, key: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # decoders raise many exception types on damaged bytes
            raise self._read_error(shard, key, error) from error

    def _decode(self, data: bytes) -> Pixels:
        with Image.open(io.BytesIO(data), formats=[PIL_FORMATS[self.manifest.format]]) as image:
            size = self.manifest.resolution
            if image.size != (size, size):
                raise ValueError(f"the image has {image.width} x {image.height} pixels, not {size} x {size}")
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))

    def _read(self, shard: int, row: int, offset: int, size: int) -> bytes:
        try:
            return self.files.read(self.shards[shard], offset, size)
        except FileNotFoundError as error:
            message, shard_lost = f"shard {self.url(shard)} is missing; {VERIFY_HINT}", True
            raise SampleReadError(message, sample=self.sample_name(shard, row), shard_lost=shard_lost) from error
        except TruncatedFile as error:  # samples before the end are still readable
            raise self._read_error(shard, self._members(shard, row).key, error) from error
        except OSError as error:
            raise self._read_error(shard, self.sample_name(shard, row), error, shard_lost=True) from error

    def _read_error(self, shard: int, sample: str, error: Exception, *, shard_lost: bool = False) -> SampleReadError:
        message = f"shard {self.url(shard)}: sample {sample} cannot be read ({error}); {VERIFY_HINT}"
        return SampleReadError(message, sample=sample, shard_lost=shard_lost)

    def sample_name(self, shard: int, row: int) -> str:
        """Return the name of a sample whose key cannot be read: shard and row."""
        return f"{self.shards[shard].name}[{row}]"

    def url(self, shard: int) -> str:
        """Return the full URL of a shard for messages."""
        return self.files.store.url_of(self.shards[shard].name)

    def _members(self, shard: int, row: int) -> _SampleMembers:
        try:
            return self._index(shard)[row]
        except DataError as error:
            raise SampleReadError(str(error), sample=self.sample_name(shard, row), shard_lost=True) from error

    def _load_index(self, shard: int) -> list[_SampleMembers]:
        file, extension = self.shards[shard], self.manifest.format
        index = ShardIndex.load(self.files.store, file.name)
        if (index.sha256, index.bytes, index.samples) != (file.sha256, file.bytes, self.counts[shard]):
            raise DataError(
                f"shard {self.url(shard)}: its index describes another shard ({index.samples} samples, "
                f"the manifest has {self.counts[shard]}); {VERIFY_HINT}"
            )
        try:
            return [_SampleMembers(key, parts["json"], parts[extension]) for key, parts in index.members.items()]
        except KeyError as error:
            raise DataError(
                f"shard {self.url(shard)}: its index lacks a member of a sample ({error}); {VERIFY_HINT}"
            ) from error


def _parse_metadata(sample: _SampleMembers, data: bytes) -> SampleMetadata:
    sample.metadata.check(f"{sample.key}.json", data)
    fields = json.loads(data)
    return SampleMetadata(sample.key, fields["identity"], fields["caption"])
