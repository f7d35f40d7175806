"""The global order of samples, a pure function of seed and position: shuffling, mixing and mirroring."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e4t_errors import ConfigError

IntArray = NDArray[np.int64]


class SamplePosition(NamedTuple):
    """Epoch, shard and row of a sample in the order of one dataset, each from 0."""

    epoch: int
    shard: int
    row: int


class GlobalOrder:
    """The order of the samples of one dataset for a seed.

    Each epoch permutes the shards and shuffles the samples within windows of consecutive shards: every sample occurs
    once per epoch, and reads stay local. Epochs follow each other without a gap, so a batch may span two epochs.
    Looking up a position costs one shuffle of its window; nothing before it is replayed.
    """

    def __init__(self, shard_samples: Sequence[int], *, seed: int, window_shards: int) -> None:
        self.counts: IntArray = np.asarray(shard_samples, dtype=np.int64)
        self.seed = seed
        self.window_shards = window_shards
        self.epoch_samples = int(self.counts.sum())
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._window = lru_cache(maxsize=2)(self._make_window)

    def locate(self, index: int) -> SamplePosition:
        """Return epoch, shard and row of the sample at position ``index``, from 0."""
        epoch, window, row = self._find_window(index)
        shard, row = self._window(epoch, window)[row].tolist()
        return SamplePosition(epoch, shard, row)

    def window_of(self, index: int) -> tuple[int, int]:
        """Return epoch and window of a position, both from 0."""
        return self._find_window(index)[:2]

    def shards_from(self, epoch: int, window: int) -> Iterator[list[int]]:
        """Yield the shards of a window, then those of the next one, and so on endlessly."""
        while True:
            shards, _ = self._epoch(epoch)
            for start in range(window * self.window_shards, len(shards), self.window_shards):
                yield shards[start : start + self.window_shards].tolist()
            epoch, window = epoch + 1, 0

    def _find_window(self, index: int) -> tuple[int, int, int]:
        """Return epoch, window, and position in the window."""
        epoch, offset = divmod(index, self.epoch_samples)
        _, starts = self._epoch(epoch)
        # The last window that starts at or before the offset; empty windows that start there come before it.
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        return epoch, window, offset - int(starts[window])

    def _make_epoch(self, epoch: int) -> tuple[IntArray, IntArray]:
        """Return the order of the shards, and the position at which each window starts."""
        shards = permutation(len(self.counts), self.seed, epoch, 0)
        sizes = np.add.reduceat(self.counts[shards], np.arange(0, len(shards), self.window_shards))
        return shards, np.cumsum(sizes) - sizes

    def _make_window(self, epoch: int, window: int) -> IntArray:
        """Return the shuffled samples of a window as an array (samples, 2) of shard and row."""
        shards, _ = self._epoch(epoch)
        members = shards[window * self.window_shards : (window + 1) * self.window_shards]
        counts = self.counts[members]
        rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = np.stack([np.repeat(members, counts), rows], axis=1)
        return positions[permutation(len(positions), self.seed, epoch, 1 + window)]


def permutation(length: int, *key: int) -> IntArray:
    """Return the permutation of ``range(length)`` that the key determines.

    It sorts raw random numbers instead of calling ``Generator.permutation``: NumPy guarantees the raw stream of a bit
    generator across versions, but not its shuffling, and a run resumed under a newer NumPy must keep its order.
    """
    draws = np.random.PCG64(np.random.SeedSequence(key)).random_raw(length)
    return np.argsort(draws, kind="stable")


def is_flipped(seed: int, epoch: int, key: str) -> bool:
    """Return whether an image is mirrored in an epoch: half of them are, independent of rank, worker and batch."""
    return hashlib.sha256(f"{seed}/{epoch}/{key}".encode()).digest()[0] < 128


MAX_BLOCK = 10_000
"""Largest number of positions in a block of ``WeightedInterleave``."""


class WeightedInterleave:
    """Interleaves datasets by weight.

    Positions are divided into blocks of ``block_size``, the smallest size in which every dataset has a whole number of
    positions in proportion to its weight (``block_counts``). Within a block the positions are shuffled. So the number
    of samples of a dataset before any position follows by arithmetic.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        """Compute the blocks. Raises ConfigError if the weights need blocks of more than ``MAX_BLOCK`` positions."""
        parts = [Fraction(str(weight)) for weight in weights]
        denominator = math.lcm(*(part.denominator for part in parts))
        counts = [int(part * denominator) for part in parts]
        self.block_counts = [count // math.gcd(*counts) for count in counts]
        """Number of positions of each dataset in a block."""
        self.block_size = sum(self.block_counts)
        """Number of positions in a block."""
        if self.block_size > MAX_BLOCK:
            raise ConfigError(
                f"stream.mixture: weights {list(weights)} (the first is that of the recipe's own dataset) "
                f"need blocks of {self.block_size} samples; give weights with fewer digits (at most {MAX_BLOCK} "
                "samples)"
            )
        self._seed = seed
        self._pattern = lru_cache(maxsize=4)(self._make_pattern)

    def locate(self, index: int) -> tuple[int, int]:
        """Return the dataset at a position, from 0, and the position in the order of that dataset."""
        block, offset = divmod(index, self.block_size)
        datasets, before = self._pattern(block)
        dataset = int(datasets[offset])
        return dataset, block * self.block_counts[dataset] + int(before[offset])

    def count_before(self, index: int, dataset: int) -> int:
        """Return the number of samples of a dataset before a position."""
        block, offset = divmod(index, self.block_size)
        datasets, _ = self._pattern(block)
        return block * self.block_counts[dataset] + int(np.count_nonzero(datasets[:offset] == dataset))

    def _make_pattern(self, block: int) -> tuple[IntArray, IntArray]:
        """Return the dataset at each position of a block, and how many of its samples precede it in the block."""
        datasets = np.repeat(np.arange(len(self.block_counts)), self.block_counts)
        # A key of four numbers, the last not 0, differs from all keys of epochs and windows.
        datasets = datasets[permutation(self.block_size, self._seed, block, 0, 1)]
        before = np.empty_like(datasets)
        for dataset, count in enumerate(self.block_counts):
            before[datasets == dataset] = np.arange(count)
        return datasets, before
