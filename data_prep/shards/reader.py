"""A split as a sequence of samples."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from data_prep.config import DataLoaderConfig
from data_prep.shards.manifest import Manifest
from data_prep.shards.samples import SampleMetadata, ShardSamples


@dataclass(frozen=True)
class Sample(SampleMetadata):
    """A stored image and its metadata."""

    pixels: Tensor
    """Pixels (3, H, W), uint8."""

    @property
    def image(self) -> Tensor:
        """Pixels as model input: (3, H, W), float32 in [-1, 1]."""
        return to_float(self.pixels)


class ShardReader(ShardSamples):
    """Sequence of the samples of a split, in the order of the shards. It is safe to use from several threads."""

    def __init__(
        self, root: Path | str, split: str, config: DataLoaderConfig | None = None, *, manifest: Manifest | None = None
    ) -> None:
        """Open a split; ``manifest`` saves reading it. Raises DataError if it is invalid or the split is empty."""
        super().__init__(root, split, config, manifest=manifest)
        self._cumulative_counts = list(accumulate(self.counts))

    def __len__(self) -> int:
        """Return the number of samples in the split."""
        return self._cumulative_counts[-1]

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``. Raises IndexError out of range, SampleReadError as ``read`` does."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = bisect_right(self._cumulative_counts, index)
        return self.read(shard, index - self._cumulative_counts[shard] + self.counts[shard])

    def __iter__(self) -> Iterator[Sample]:
        """Iterate over all samples once."""
        for shard, count in enumerate(self.counts):
            for row in range(count):
                yield self.read(shard, row)

    def read(self, shard: int, row: int) -> Sample:
        """Read the sample at ``row`` of a shard. Raises SampleReadError if it is missing or damaged."""
        metadata, pixels = self.read_image(shard, row)
        return Sample(**vars(metadata), pixels=torch.tensor(pixels).permute(2, 0, 1).contiguous())


def to_float(pixels: Tensor) -> Tensor:
    """Convert uint8 pixels to contiguous float32 in [-1, 1], of the same shape and on the same device."""
    return pixels.to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1
