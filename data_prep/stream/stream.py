"""Read shards as batches in one global order that is independent of the number of ranks and resumable anywhere."""

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from data_prep.config import DataLoaderConfig
from data_prep.shards.features import FeatureReader
from data_prep.stream.loader import Loader, PendingBatch
from data_prep.stream.sample_sequence import SampleSequence
from e4t_errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch, b samples."""

    keys: list[str]
    """Sample keys in the shards."""
    identities: list[str]
    """Identity of each sample: the person or object in the image."""
    captions: list[str]
    """Caption of each sample."""
    tensors: dict[str, Tensor]
    """``pixels`` (b, 3, H, W), uint8, channels last in memory, which ``to_float`` converts to model input on any
    device; or, in a stream of cached features, these by name, each (b, ...)."""
    indices: list[int]
    """Global position of each sample. Per-sample random numbers are seeded with it and therefore do not depend on rank
    or batch size."""
    samples_seen: int
    """Number of samples that all ranks have seen, including this batch: the state to resume from."""
    epoch: int
    """Epoch, from 0, of the last sample of the recipe's own dataset up to here."""
    skipped: list[str]
    """Keys of samples that could not be read and were replaced. Empty unless ``stream.on_error`` is ``skip``."""


class ShardStream(Iterator[Batch]):
    """Endless iterator over the batches of a split for one rank.

    The samples of all epochs form one sequence, epoch e + 1 directly after epoch e. From ``samples_seen`` on, each
    global batch takes the next ``global_batch_size`` samples, and rank r the r-th of ``world_size`` equal parts. So
    each sample occurs once per epoch, no tail is dropped, and a batch may span two epochs. The sequence depends only on
    the seed and on ``fingerprint``, not on ranks, workers or where it was resumed.

    Workers start with the first batch. ``close``, or leaving a ``with`` block, ends them; iterating afterwards
    continues after the last batch returned.
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
        """Open a split at a position. If ``features`` are given, images are not decoded.

        Raises ConfigError if the batch cannot be divided among the ranks, the datasets cannot be mixed or the cache is
        too small, and DataError if a dataset cannot be used or its split is empty.
        """
        if global_batch_size < 1 or global_batch_size % world_size:
            raise ConfigError(
                f"a global batch size of {global_batch_size} cannot be divided among {world_size} ranks; "
                f"give a multiple of {world_size}"
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
        """Return everything that determines the order apart from the seed, as flat plain data; checkpoints store it."""
        return self.sequence.fingerprint()

    def __next__(self) -> Batch:
        """Return the next batch. Closes and raises DataError if a sample cannot be read and may not be skipped."""
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
            log.warning(
                "skipped %d unreadable samples (%d so far): %s",
                len(loaded.skipped),
                self.skipped,
                ", ".join(loaded.skipped[:8]),
            )
        return Batch(
            keys=[metadata.key for metadata in loaded.metadata],
            identities=[metadata.identity for metadata in loaded.metadata],
            captions=[metadata.caption for metadata in loaded.metadata],
            tensors=loaded.tensors,
            indices=loaded.indices,
            samples_seen=self.samples_seen,
            epoch=self.sequence.epoch_of(self.samples_seen),
            skipped=loaded.skipped,
        )

    def close(self) -> None:
        """End the workers and discard prefetched batches."""
        self._pending.clear()
        self._loader.close()

    def __enter__(self) -> Self:
        """Return the stream; workers start with the first batch."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        self.close()
