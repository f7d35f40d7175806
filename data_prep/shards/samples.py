"""Random access to the samples of a split by byte offset, without torch, so that decoding processes start quickly."""

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

from data_prep.config import PIL_FORMATS, DataLoaderConfig
from data_prep.errors import DataError, SampleReadError
from data_prep.shards.manifest import Manifest
from data_prep.shards.shard_index import ShardIndex
from data_prep.storage.cached_files import CachedFiles, StoredFile, TruncatedFile
from data_prep.storage.local_cache import FileCache
from data_prep.storage.retrying_store import RetryingStore

VERIFY_HINT = "run `e4t prepare --verify` to list damaged shards"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SampleMetadata:
    """Metadata of a stored image."""

    key: str
    """Sample key in the shards."""
    identity: str
    """Person or object in the image."""
    caption: str
    """The image's own caption, or the one generated from ``data.caption_template``."""


class _SampleOffsets(NamedTuple):
    key: str
    metadata: tuple[int, int]
    """Offset and size of the JSON in bytes."""
    image: tuple[int, int]
    """Offset and size of the image file in bytes."""


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
        """Read the metadata of the sample at ``row`` of a shard. Raises SampleReadError."""
        offsets = self._offsets(shard, row)
        data = self._read(shard, row, *offsets.metadata)
        with self._decode_errors(shard, offsets.key):
            return _parse_metadata(offsets, data)

    def read_image(self, shard: int, row: int) -> tuple[SampleMetadata, Pixels]:
        """Read metadata and pixels (H, W, 3) uint8; fetch a corrupt cached shard again. Raises SampleReadError."""
        try:
            return self._read_image(shard, row)
        except SampleReadError:
            if not self.files.evict_if_corrupt(self.shards[shard]):
                raise
            return self._read_image(shard, row)

    def _read_image(self, shard: int, row: int) -> tuple[SampleMetadata, Pixels]:
        offsets = self._offsets(shard, row)
        first = min(offsets.metadata[0], offsets.image[0])
        end = max(sum(offsets.metadata), sum(offsets.image))
        data = self._read(shard, row, first, end - first)
        metadata_bytes, image_bytes = (
            data[offset - first : offset - first + size] for offset, size in (offsets.metadata, offsets.image)
        )
        with self._decode_errors(shard, offsets.key):
            return _parse_metadata(offsets, metadata_bytes), self._decode(image_bytes)

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
            raise self._read_error(shard, self._offsets(shard, row).key, error) from error
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

    def _offsets(self, shard: int, row: int) -> _SampleOffsets:
        try:
            return self._index(shard)[row]
        except DataError as error:
            raise SampleReadError(str(error), sample=self.sample_name(shard, row), shard_lost=True) from error

    def _load_index(self, shard: int) -> list[_SampleOffsets]:
        file, extension = self.shards[shard], self.manifest.format
        index = ShardIndex.load(self.files.store, file.name)
        if (index.sha256, len(index.members)) != (file.sha256, self.counts[shard]):
            raise DataError(
                f"shard {self.url(shard)}: its index describes another shard ({len(index.members)} samples, "
                f"the manifest has {self.counts[shard]}); {VERIFY_HINT}"
            )
        try:
            return [
                _SampleOffsets(key, _offset_and_size(parts["json"]), _offset_and_size(parts[extension]))
                for key, parts in index.members.items()
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"shard {self.url(shard)}: its index lacks the byte range of a member ({error}); {VERIFY_HINT}"
            ) from error


def _parse_metadata(offsets: _SampleOffsets, data: bytes) -> SampleMetadata:
    fields = json.loads(data)
    return SampleMetadata(offsets.key, fields["identity"], fields["caption"])


def _offset_and_size(span: tuple[int, int]) -> tuple[int, int]:
    offset, size = span
    return offset, size
