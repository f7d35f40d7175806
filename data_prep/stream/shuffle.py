"""The global order of samples: a function of seed and position alone."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e4t import ConfigError

IntArray = NDArray[np.int64]


class SamplePosition(NamedTuple):
    """Where a row of the global order lies."""

    epoch: int
    shard: int
    row: int


class GlobalOrder:
    """The order of samples for a seed.

    Each epoch permutes the shards and shuffles the samples within windows of consecutive ones, so that every sample
    comes once an epoch and reads stay near each other. Epochs follow each other without a gap: a batch may end one and
    begin the next. Any position is found at the cost of shuffling its window; nothing before it is replayed.
    """

    def __init__(self, shard_samples: Sequence[int], *, seed: int, window_shards: int) -> None:
        self.counts: IntArray = np.asarray(shard_samples, dtype=np.int64)
        self.seed = seed
        self.window_shards = window_shards
        self.epoch_samples = int(self.counts.sum())
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._window = lru_cache(maxsize=2)(self._make_window)

    def locate(self, index: int) -> SamplePosition:
        """Epoch, shard and row of the sample at global position ``index``, from 0."""
        epoch, window, row = self._find_window(index)
        shard, row = self._window(epoch, window)[row].tolist()
        return SamplePosition(epoch, shard, row)

    def window_of(self, index: int) -> tuple[int, int]:
        """Epoch and window, both from 0, of a global position."""
        return self._find_window(index)[:2]

    def shards_from(self, epoch: int, window: int) -> Iterator[list[int]]:
        """The shards of a window, then those of the next one, and so on without end."""
        while True:
            shards, _ = self._epoch(epoch)
            for start in range(window * self.window_shards, len(shards), self.window_shards):
                yield shards[start : start + self.window_shards].tolist()
            epoch, window = epoch + 1, 0

    def _find_window(self, index: int) -> tuple[int, int, int]:
        """Epoch, window, and position in the window."""
        epoch, offset = divmod(index, self.epoch_samples)
        _, starts = self._epoch(epoch)
        # The last window that starts here or before: the ones of no samples that start at the same place come first.
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        return epoch, window, offset - int(starts[window])

    def _make_epoch(self, epoch: int) -> tuple[IntArray, IntArray]:
        """The shards' order, and the position at which each window of them starts."""
        shards = permutation(len(self.counts), self.seed, epoch, 0)
        sizes = np.add.reduceat(self.counts[shards], np.arange(0, len(shards), self.window_shards))
        return shards, np.cumsum(sizes) - sizes

    def _make_window(self, epoch: int, window: int) -> IntArray:
        """(samples, 2): shard and row, shuffled."""
        shards, _ = self._epoch(epoch)
        members = shards[window * self.window_shards : (window + 1) * self.window_shards]
        counts = self.counts[members]
        rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = np.stack([np.repeat(members, counts), rows], axis=1)
        return positions[permutation(len(positions), self.seed, epoch, 1 + window)]


def permutation(length: int, *key: int) -> IntArray:
    """A permutation of ``range(length)`` that the key decides.

    NumPy promises the raw stream of a bit generator for good, and not what its own shuffles make of it; a run resumed
    under a newer NumPy must go on in the same order.
    """
    draws = np.random.PCG64(np.random.SeedSequence(key)).random_raw(length)
    return np.argsort(draws, kind="stable")


def is_flipped(seed: int, epoch: int, key: str) -> bool:
    """Whether this picture is, in this epoch: every second one, whatever rank, worker or batch it comes to."""
    return hashlib.sha256(f"{seed}/{epoch}/{key}".encode()).digest()[0] < 128


MAX_BLOCK = 10_000


class WeightedInterleave:
    """Sets interleaved by weight.

    The line is cut into blocks of ``len(shares)`` positions in all, the smallest number in which every weight is a
    whole one. Each block holds every set's share exactly, shuffled; so how many of a set come before any position
    follows by arithmetic.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        """Raises ConfigError if the weights have no common measure that is short enough."""
        parts = [Fraction(str(weight)) for weight in weights]
        denominator = math.lcm(*(part.denominator for part in parts))
        counts = [int(part * denominator) for part in parts]
        self.block_counts = [count // math.gcd(*counts) for count in counts]
        """Positions of each set in a block."""
        self.block_size = sum(self.block_counts)
        """Positions in a block."""
        if self.block_size > MAX_BLOCK:
            raise ConfigError(
                f"stream.mixture: weights {list(weights)} (the first is of the recipe's own set) are exact only over "
                f"{self.block_size} samples; give weights with fewer digits (at most {MAX_BLOCK} samples)"
            )
        self._seed = seed
        self._pattern = lru_cache(maxsize=4)(self._make_pattern)

    def locate(self, index: int) -> tuple[int, int]:
        """The set at a position, from 0, and the position in that set's own line."""
        block, offset = divmod(index, self.block_size)
        datasets, before = self._pattern(block)
        dataset = int(datasets[offset])
        return dataset, block * self.block_counts[dataset] + int(before[offset])

    def count_before(self, index: int, dataset: int) -> int:
        """How many of a set come before a position."""
        block, offset = divmod(index, self.block_size)
        datasets, _ = self._pattern(block)
        return block * self.block_counts[dataset] + int(np.count_nonzero(datasets[:offset] == dataset))

    def _make_pattern(self, block: int) -> tuple[IntArray, IntArray]:
        """The set at each position of the block, and how many of it come before in the block."""
        datasets = np.repeat(np.arange(len(self.block_counts)), self.block_counts)
        # Four numbers, the last not 0: no key of an epoch or a window is the same.
        datasets = datasets[permutation(self.block_size, self._seed, block, 0, 1)]
        before = np.empty_like(datasets)
        for dataset, count in enumerate(self.block_counts):
            before[datasets == dataset] = np.arange(count)
        return datasets, before
