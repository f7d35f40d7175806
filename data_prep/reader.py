"""Single samples of a split, read by their offsets."""

import io
import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_prep.errors import DataError
from data_prep.manifest import Manifest
from data_prep.sidecar import Sidecar
from data_prep.store import Store

CHECK = "run `e4t prepare --verify` to list damaged shards"


@dataclass(frozen=True)
class About:
    """What is known of a stored picture."""

    key: str
    """Name in the shards."""
    identity: str
    """Who or what it shows."""
    caption: str
    """Its own, or the set's template."""


@dataclass(frozen=True)
class Sample(About):
    """A stored picture and what is known of it."""

    pixels: Tensor
    """(3, H, W) uint8."""

    @property
    def image(self) -> Tensor:
        """The pixels as models take them, (3, H, W) float32 in [-1, 1]."""
        return self.pixels.float() / 127.5 - 1


class ShardReader:
    """A split as a sequence of samples, in the shards' own order. Any number of threads may read."""

    def __init__(self, root: Path | str, split: str, *, sidecars_kept: int = 64) -> None:
        """Open a split. Raises DataError if the manifest is unfit or the split empty."""
        self.manifest = Manifest.load(root)
        shards = self.manifest.shards(split)
        self._store = Store(str(root))
        self.paths = [Path(root) / split / shard.name for shard in shards]
        self.counts = [shard.samples for shard in shards]
        self._ends = list(accumulate(self.counts))
        self._places = lru_cache(maxsize=sidecars_kept)(self._load_places)

    def __len__(self) -> int:
        """Samples in the split."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``, from 0. Raises IndexError past the end, DataError as ``read`` does."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        return self.read(shard, index - self._ends[shard] + self.counts[shard])

    def __iter__(self) -> Iterator[Sample]:
        """Every sample once."""
        for shard, count in enumerate(self.counts):
            for row in range(count):
                yield self.read(shard, row)

    def read(self, shard: int, row: int) -> Sample:
        """The sample at ``row`` of a shard. Raises DataError that names the shard if it is missing or damaged."""
        with self._opened(shard, row) as (file, place):
            about = json.loads(os.pread(file, *place.about))
            with Image.open(io.BytesIO(os.pread(file, *place.picture))) as image:
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
            return Sample(place.key, about["identity"], about["caption"], pixels)

    def describe(self, shard: int, row: int) -> About:
        """The same without the picture, which is not decoded."""
        with self._opened(shard, row) as (file, place):
            about = json.loads(os.pread(file, *place.about))
            return About(place.key, about["identity"], about["caption"])

    @contextmanager
    def _opened(self, shard: int, row: int) -> Iterator[tuple[int, "_SamplePlace"]]:
        path, place = self.paths[shard], self._place(shard, row)
        try:
            with path.open("rb") as file:
                yield file.fileno(), place
        except FileNotFoundError as error:
            raise DataError(f"shard {path} is missing; {CHECK}") from error
        except Exception as error:  # a decoder answers damaged bytes with nearly anything
            raise DataError(f"shard {path}: sample {place.key} cannot be read ({error}); {CHECK}") from error

    def _place(self, shard: int, row: int) -> "_SamplePlace":
        places = self._places(shard)
        if len(places) != self.counts[shard]:
            raise DataError(
                f"shard {self.paths[shard]}: its sidecar has {len(places)} samples, "
                f"the manifest {self.counts[shard]}; {CHECK}"
            )
        return places[row]

    def _load_places(self, shard: int) -> list["_SamplePlace"]:
        path = self.paths[shard]
        try:
            return [
                _SamplePlace(key, _size_and_offset(parts["json"]), _size_and_offset(parts[self.manifest.codec]))
                for key, parts in Sidecar.load(self._store, f"{path.parent.name}/{path.name}").members.items()
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"shard {path}: its sidecar has no place for some member ({error}); {CHECK}") from error


@dataclass(frozen=True, slots=True)
class _SamplePlace:
    key: str
    about: tuple[int, int]
    """Size and offset, the order in which ``os.pread`` takes them."""
    picture: tuple[int, int]
    """Size and offset."""


def _size_and_offset(place: tuple[int, int]) -> tuple[int, int]:
    offset, size = place
    return size, offset
