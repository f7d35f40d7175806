"""Shards to batches: one global order, whatever the number of ranks; resumed by arithmetic, never by replay."""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from data_prep.config import StreamConfig
from data_prep.errors import ConfigError
from data_prep.features import FeatureReader
from data_prep.order import GlobalOrder, Place
from data_prep.reader import About, Sample, ShardReader

__all__ = ["Batch", "Sample", "ShardReader", "ShardStream"]


@dataclass(frozen=True)
class Batch:
    """This rank's slice of a global batch, b samples."""

    keys: list[str]
    """Names in the shards."""
    identities: list[str]
    """Who or what each shows."""
    captions: list[str]
    """One each."""
    tensors: dict[str, Tensor]
    """``pixels`` (b, 3, H, W), float32 in [-1, 1]; or, of a stream of features, those, each (b, ...)."""
    indices: list[int]
    """Global positions: a sample's own randomness is drawn from these, so it does not depend on rank or batch size."""
    samples_seen: int
    """By all ranks, this global batch included: the state to resume from."""
    epoch: int
    """Of the global batch's last row, from 0."""


@dataclass(frozen=True)
class _Row:
    """A sample on its way into a batch."""

    about: About
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class _Ahead:
    """A batch that threads are decoding."""

    indices: list[int]
    rows: list[Future[_Row]]


class ShardStream(Iterator[Batch]):
    """Endless batches of a split for one rank.

    The rows of all epochs stand in one line, epoch e + 1 right behind epoch e. From ``samples_seen`` on, each global
    batch takes the next ``global_batch`` rows of it, rank r the r-th of ``world`` equal slices. So each sample comes
    once an epoch, no tail is dropped, and a batch may span two epochs. The line depends on the seed, the shards and
    ``config.window_shards``; never on ranks, threads or where it was resumed.

    Threads start with the first batch. ``close``, or leaving a ``with`` block, stops them; going on afterwards
    continues behind the last batch given.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        *,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        samples_seen: int = 0,
        config: StreamConfig | None = None,
        features: FeatureReader | None = None,
    ) -> None:
        """Open a split at a position; ``features`` stand for the pictures, which are not decoded then.

        Raises ConfigError if the ranks cannot share the batch, DataError if the set is unfit or the split empty.
        """
        if global_batch < 1 or global_batch % world:
            raise ConfigError(
                f"a global batch of {global_batch} cannot be shared by {world} ranks; give a multiple of {world}"
            )
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} is not one of {world} ranks; give 0 to {world - 1}")
        if min(seed, samples_seen) < 0:
            raise ConfigError(f"seed {seed} and samples_seen {samples_seen} must be at least 0")
        self.config = config or StreamConfig()
        self.reader = ShardReader(root, split, sidecars_kept=2 * self.config.window_shards)
        self.order = GlobalOrder(self.reader.counts, seed=seed, window_shards=self.config.window_shards)
        self.global_batch, self.rank, self.world, self.seed = global_batch, rank, world, seed
        self.samples_seen, self.features = samples_seen, features
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: deque[_Ahead] = deque()

    def __next__(self) -> Batch:
        """The next batch. Raises DataError, and closes, if a sample cannot be read."""
        while len(self._ahead) <= self.config.prefetch:
            self._ahead.append(self._start(self.samples_seen + len(self._ahead) * self.global_batch))
        first = self._ahead[0]
        try:
            rows = [future.result() for future in first.rows]
        except BaseException:
            self.close()
            raise
        self._ahead.popleft()
        self.samples_seen += self.global_batch
        return Batch(
            keys=[row.about.key for row in rows],
            identities=[row.about.identity for row in rows],
            captions=[row.about.caption for row in rows],
            tensors={name: torch.stack([row.tensors[name] for row in rows]) for name in rows[0].tensors},
            indices=first.indices,
            samples_seen=self.samples_seen,
            epoch=(self.samples_seen - 1) // self.order.epoch_samples,
        )

    def close(self) -> None:
        """Stop the threads and forget what was decoded ahead."""
        pool, self._pool = self._pool, None
        self._ahead.clear()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        """Nothing to do: threads start with the first batch."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _start(self, start: int) -> _Ahead:
        """Begin to decode this rank's slice of the global batch at ``start``."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.config.threads, thread_name_prefix="shard-stream")
        share = self.global_batch // self.world
        first = start + self.rank * share
        indices = list(range(first, first + share))
        return _Ahead(indices, [self._pool.submit(self._read, self.order.place(index)) for index in indices])

    def _read(self, place: Place) -> _Row:
        if self.features is not None:
            about = self.reader.describe(place.shard, place.row)
            flipped = self._is_flipped(place.epoch, about.key)
            return _Row(about, self.features.read(place.shard, place.row, flipped=flipped))
        sample = self.reader.read(place.shard, place.row)
        flipped = self._is_flipped(place.epoch, sample.key)
        return _Row(sample, {"pixels": sample.image.flip(-1) if flipped else sample.image})

    def _is_flipped(self, epoch: int, key: str) -> bool:
        return self.config.flip and hashlib.sha256(f"{self.seed}/{epoch}/{key}".encode()).digest()[0] < 128
