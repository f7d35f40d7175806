"""Load one rank's share of each batch ahead of training."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from queue import SimpleQueue

from torch import Tensor

from data_prep.errors import DataError, SampleReadError
from data_prep.shards.features import FeatureReader
from data_prep.shards.samples import SampleMetadata
from data_prep.stream.buffers import BatchBuffer, Decoder, FeatureBuffer, PixelBuffer
from data_prep.stream.decoder import DecodeResult, Task
from data_prep.stream.prefetch import Prefetcher
from data_prep.stream.sample_sequence import SampleSequence

DECODE_CHUNK = 8
"""Largest number of images sent to a decoder at once: the overhead is small and the decoders stay evenly loaded."""
MAX_CONSECUTIVE_FAILURES = 32
"""Number of consecutive read failures after which the dataset itself is considered lost, or twice
``stream.shuffle_window_shards`` if that is more."""
LoadedRow = tuple[SampleMetadata, str | None]
"""Metadata of a sample, and the name of the unreadable sample that it replaces, if any."""


@dataclass(frozen=True)
class LoadedBatch:
    """One rank's share of a batch, loaded."""

    metadata: list[SampleMetadata]
    """Metadata of each sample."""
    tensors: dict[str, Tensor]
    """Pixels or features by name, each with a leading batch dimension."""
    indices: list[int]
    """Global position of each sample."""
    skipped: list[str]
    """Keys of samples that could not be read and were replaced."""


@dataclass(frozen=True)
class PendingBatch:
    """One rank's share of a batch that is being loaded."""

    indices: list[int]
    """Global position of each sample."""
    futures: list[Future[list[LoadedRow]]]
    """Rows of the batch in chunks."""
    gather: Callable[[], dict[str, Tensor]]
    """Function that returns the tensors once all futures are done."""

    def result(self) -> LoadedBatch:
        """Wait for the batch. Raises DataError if a sample cannot be read and may not be skipped."""
        rows = [row for future in self.futures for row in future.result()]
        skipped = [key for _, key in rows if key is not None]
        return LoadedBatch([metadata for metadata, _ in rows], self.gather(), self.indices, skipped)


class Loader:
    """Loads batches of ``local_batch_size`` samples, up to ``stream.prefetch`` + 1 at a time."""

    def __init__(self, sequence: SampleSequence, local_batch_size: int, features: FeatureReader | None) -> None:
        """Store the arguments; threads and processes start with the first batch."""
        self._sequence, self._local_batch_size, self._config = sequence, local_batch_size, sequence.config
        self._features = [features, *(features.for_dataset(root) for root in sequence.roots[1:])] if features else []
        self._ring_size = self._config.prefetch + 1
        self._lost_shards: set[tuple[int, int, int]] = set()
        self._buffer: BatchBuffer | None = None
        self._ring_index, self._windows = 0, list[tuple[int, int]]()

    def start(self, index: int) -> PendingBatch:
        """Start loading the batch at a global position.

        Buffers are reused: all earlier batches except the last ``stream.prefetch`` must have been collected.
        """
        if self._buffer is None:
            self._open()
        self._schedule_prefetch(index)
        first_slot = self._ring_index * self._local_batch_size
        self._ring_index = (self._ring_index + 1) % self._ring_size
        size = max(1, min(DECODE_CHUNK, -(-self._local_batch_size // self._num_threads)))
        futures = [
            self._pool.submit(self._load, index + start, first_slot + start, min(size, self._local_batch_size - start))
            for start in range(0, self._local_batch_size, size)
        ]
        indices = list(range(index, index + self._local_batch_size))
        return PendingBatch(indices, futures, partial(self._buffer.gather, first_slot, self._local_batch_size))  # type: ignore[union-attr]

    def close(self) -> None:
        """Stop all threads and processes; a later ``start`` creates new ones."""
        buffer, self._buffer = self._buffer, None
        if buffer is None:
            return
        self._prefetcher.close()
        for decoder in buffer.decoders:
            decoder.close()  # unblocks the threads that wait for it
        self._pool.shutdown(wait=True, cancel_futures=True)
        buffer.close()

    def _open(self) -> None:
        count = self._ring_size * self._local_batch_size
        self._buffer = (
            FeatureBuffer(self._sequence, count, self._features)
            if self._features
            else PixelBuffer(self._sequence, count)
        )
        self._num_threads = len(self._buffer.decoders)
        self._idle_decoders: SimpleQueue[Decoder] = SimpleQueue()
        for decoder in self._buffer.decoders:
            self._idle_decoders.put(decoder)
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="shard-stream")
        self._prefetcher = Prefetcher()
        self._ring_index, self._windows = 0, []

    def _load(self, index: int, first_slot: int, count: int) -> list[LoadedRow]:
        """Load ``count`` samples from a global position on."""
        decoder = self._idle_decoders.get()
        try:
            tasks = [Task(first_slot + row, *self._sequence.locate(index + row)) for row in range(count)]
            readable = [task for task in tasks if not self._is_shard_lost(task)]
            results = dict(zip(readable, decoder.decode(readable), strict=True))
            return [
                self._read_or_replace(decoder, index + row, task, results.get(task)) for row, task in enumerate(tasks)
            ]
        finally:
            self._idle_decoders.put(decoder)

    def _read_or_replace(self, decoder: Decoder, index: int, task: Task, result: DecodeResult | None) -> LoadedRow:
        """Return the sample, or the next readable one in the global order, which does not depend on the rank."""
        skipped, failures = None, 0
        while not isinstance(result, SampleMetadata):
            skipped = skipped or (result.sample if result else self._sample_name(task))
            if result:
                self._handle_unreadable(task, result)
                failures += 1
                if failures >= max(MAX_CONSECUTIVE_FAILURES, 2 * self._config.shuffle_window_shards):
                    raise DataError(
                        f"{failures} consecutive samples cannot be read; the last error: {result}"
                    ) from result
            index += 1
            task = Task(task.slot, *self._sequence.locate(index))
            result = None if self._is_shard_lost(task) else decoder.decode([task])[0]
        return result, skipped

    def _handle_unreadable(self, task: Task, error: SampleReadError) -> None:
        if self._config.on_error == "raise":
            raise error
        if error.shard_lost:
            self._lost_shards.add((task.dataset, task.epoch, task.shard))

    def _is_shard_lost(self, task: Task) -> bool:
        """Return whether the shard was found lost in this epoch; the next epoch tries it again."""
        return (task.dataset, task.epoch, task.shard) in self._lost_shards

    def _sample_name(self, task: Task) -> str:
        return self._sequence.readers[task.dataset].sample_name(task.shard, task.row)

    def _schedule_prefetch(self, index: int) -> None:
        """Fetch the shards of this window and then, as far as they fit into the cache, those of the next one."""
        windows = self._sequence.windows_of(index)
        if windows == self._windows:
            return
        self._windows = windows
        spans = [order.shards_from(*window) for order, window in zip(self._sequence.orders, windows, strict=True)]
        shards = [
            (dataset, shard)
            for _ in ("this window", "next window")
            for dataset, span in enumerate(spans)
            for shard in next(span)
        ]
        cumulative_bytes = accumulate(self._cache_bytes(*shard) for shard in shards)
        fitting = [
            shard for shard, end in zip(shards, cumulative_bytes, strict=True) if end <= self._config.cache_max_bytes
        ]
        self._prefetcher.submit(partial(self._fetch_shard, *shard) for shard in fitting)

    def _cache_bytes(self, dataset: int, shard: int) -> int:
        """Return the size of a shard in the cache; local shards take no room."""
        reader = self._sequence.readers[dataset]
        return 0 if reader.files.store.is_local else reader.shards[shard].bytes

    def _fetch_shard(self, dataset: int, shard: int) -> None:
        reader = self._sequence.readers[dataset]
        reader.files.prefetch(reader.shards[shard])
        if self._features:
            self._features[dataset].prefetch(shard)
