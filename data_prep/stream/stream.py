"""Shards to batches: one global order, whatever the number of ranks; resumed by arithmetic, never by replay."""

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from data_prep.config import DataLoaderConfig
from data_prep.hashing import sha256_json
from data_prep.shards.features import FeatureReader
from data_prep.shards.reader import Sample, ShardReader, to_float
from data_prep.stream.loader import Loader, PendingBatch
from data_prep.stream.sample_sequence import SampleSequence
from e4t import ConfigError

__all__ = ["Batch", "Sample", "ShardReader", "ShardStream", "to_float"]
log = logging.getLogger(__name__)


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
    """``pixels`` (b, 3, H, W), uint8, channels last in memory (``as_images`` makes of them what models take, on any
    device); or, of a stream of features, those, each (b, ...)."""
    indices: list[int]
    """Global positions: a sample's own randomness is drawn from these, so it does not depend on rank or batch size."""
    samples_seen: int
    """By all ranks, this global batch included: the state to resume from."""
    epoch: int
    """Of the last row of the recipe's own set up to here, from 0."""
    skipped: list[str]
    """Keys of samples that could not be read; others stand in their place. Empty unless ``config.damaged`` is skip."""


class ShardStream(Iterator[Batch]):
    """Endless batches of a split for one rank.

    The rows of all epochs stand in one line, epoch e + 1 right behind epoch e. From ``samples_seen`` on, each global
    batch takes the next ``global_batch`` rows of it, rank r the r-th of ``world`` equal slices. So each sample comes
    once an epoch, no tail is dropped, and a batch may span two epochs. The line depends on the seed and on what
    ``identity`` tells; never on ranks, workers or where it was resumed.

    Workers start with the first batch. ``close``, or leaving a ``with`` block, ends them; going on afterwards continues
    behind the last batch given.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        *,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        samples_seen: int = 0,
        config: DataLoaderConfig | None = None,
        features: FeatureReader | None = None,
    ) -> None:
        """Open a split at a position; ``features`` stand for the pictures, which are not decoded then.

        Raises ConfigError if the ranks cannot share the batch, the mixed sets do not fit together or the cache is too
        small for them, DataError if a set is unfit or its split empty.
        """
        if global_batch_size < 1 or global_batch_size % world_size:
            raise ConfigError(
                f"a global batch of {global_batch_size} cannot be shared by {world_size} ranks; give a multiple of {world_size}"
            )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is not one of {world_size} ranks; give 0 to {world_size - 1}")
        if min(seed, samples_seen) < 0:
            raise ConfigError(f"seed {seed} and samples_seen {samples_seen} must be at least 0")
        self.config = config or DataLoaderConfig()
        self.sequence = SampleSequence(str(root), split, self.config, seed=seed)
        self.global_batch_size, self.rank, self.world_size = global_batch_size, rank, world_size
        self.samples_seen, self.skipped = samples_seen, 0
        self._loader = Loader(self.sequence, global_batch_size // world_size, features)
        self._pending: deque[PendingBatch] = deque()

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the order beside the seed, as flat plain data: two runs with the same see the same."""
        return self.sequence.fingerprint()

    @property
    def digest(self) -> str:
        """Sha256 of ``identity``."""
        return sha256_json(self.fingerprint())

    def __next__(self) -> Batch:
        """The next batch. Raises DataError, and closes, if samples cannot be read and ``config`` does not skip them."""
        while len(self._pending) <= self.config.prefetch:
            start = self.samples_seen + len(self._pending) * self.global_batch_size
            self._pending.append(self._loader.start(start + self.rank * (self.global_batch_size // self.world_size)))
        try:
            loaded = self._pending[0].result()
        except BaseException:
            self.close()
            raise
        self._pending.popleft()
        self.samples_seen += self.global_batch_size
        self.skipped += len(loaded.skipped)
        if loaded.skipped:
            log.warning("skipped %d (%d so far): %s", len(loaded.skipped), self.skipped, ", ".join(loaded.skipped[:8]))
        return Batch(
            keys=[metadata.key for metadata in loaded.metadata],
            identities=[about.identity for about in loaded.metadata],
            captions=[about.caption for about in loaded.metadata],
            tensors=loaded.tensors,
            indices=loaded.indices,
            samples_seen=self.samples_seen,
            epoch=self.sequence.epoch_of(self.samples_seen),
            skipped=loaded.skipped,
        )

    def close(self) -> None:
        """End the workers and forget what was decoded ahead."""
        self._pending.clear()
        self._loader.close()

    def __enter__(self) -> Self:
        """Nothing to do: workers start with the first batch."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
