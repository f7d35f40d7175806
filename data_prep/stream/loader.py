"""One rank's slices of batches, loaded ahead."""

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
"""Most pictures that a decoder is given at once: enough to make the hand-over cheap, few enough to share them out."""
MAX_CONSECUTIVE_FAILURES = 32
"""Readings in a row that may fail before it is clear that the set, and not a sample, is lost; or two windows of shards,
if those are more."""
LoadedRow = tuple[SampleMetadata, str | None]
"""What is known of a sample, and which one it stands for if that could not be read."""


@dataclass(frozen=True)
class LoadedBatch:
    """A rank's slice of a batch."""

    metadata: list[SampleMetadata]
    """What is known of each sample."""
    tensors: dict[str, Tensor]
    """The samples."""
    indices: list[int]
    """Global positions."""
    skipped: list[str]
    """Samples that could not be read."""


@dataclass(frozen=True)
class PendingBatch:
    """A slice that workers are at."""

    indices: list[int]
    """Global positions."""
    futures: list[Future[list[LoadedRow]]]
    """The rows, some at a time."""
    gather: Callable[[], dict[str, Tensor]]
    """The samples, once all parts are done."""

    def result(self) -> LoadedBatch:
        """Wait for it. Raises DataError."""
        rows = [row for future in self.futures for row in future.result()]
        skipped = [key for _, key in rows if key is not None]
        return LoadedBatch([metadata for metadata, _ in rows], self.gather(), self.indices, skipped)


class Loader:
    """Loads slices of ``share`` samples, up to ``prefetch`` + 1 at a time."""

    def __init__(self, sequence: SampleSequence, local_batch_size: int, features: FeatureReader | None) -> None:
        """Nothing starts before the first slice does."""
        self._sequence, self._local_batch_size, self._config = sequence, local_batch_size, sequence.config
        self._features = [features, *(features.for_dataset(root) for root in sequence.roots[1:])] if features else []
        self._ring_size = self._config.prefetch + 1
        self._lost_shards: set[tuple[int, int, int]] = set()
        self._buffer: BatchBuffer | None = None
        self._ring_index, self._windows = 0, list[tuple[int, int]]()

    def start(self, index: int) -> PendingBatch:
        """Begin with the slice at a global position. The results of all but the last ``prefetch`` must be there."""
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
        """Stop everything; a later start begins anew."""
        buffer, self._buffer = self._buffer, None
        if buffer is None:
            return
        self._prefetcher.close()
        for decoder in buffer.decoders:
            decoder.close()  # threads that wait for it need not wait on
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
        """So many samples from a position on."""
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
        """The sample, or the next one in the line that can be read: the same whichever rank asks."""
        skipped, failures = None, 0
        while not isinstance(result, SampleMetadata):
            skipped = skipped or (result.sample if result else self._sample_name(task))
            if result:
                self._handle_unreadable(task, result)
                failures += 1
                if failures >= max(MAX_CONSECUTIVE_FAILURES, 2 * self._config.shuffle_window_shards):
                    raise DataError(
                        f"{failures} samples in a row cannot be read, the last because: {result}"
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
        """Whether the shard was found lost in this epoch; in the next it may be there again."""
        return (task.dataset, task.epoch, task.shard) in self._lost_shards

    def _sample_name(self, task: Task) -> str:
        return self._sequence.readers[task.dataset].sample_name(task.shard, task.row)

    def _schedule_prefetch(self, index: int) -> None:
        """Fetch this window's shards and then, as far as the cache has room, the next one's."""
        windows = self._sequence.window_of(index)
        if windows == self._windows:
            return
        self._windows = windows
        spans = [order.shards_from(*window) for order, window in zip(self._sequence.orders, windows, strict=True)]
        shards = [
            (dataset, shard) for _ in ("now", "then") for dataset, span in enumerate(spans) for shard in next(span)
        ]
        cumulative_bytes = accumulate(self._cache_bytes(*shard) for shard in shards)
        fitting = [
            shard for shard, end in zip(shards, cumulative_bytes, strict=True) if end <= self._config.cache_max_bytes
        ]
        self._prefetcher.submit(partial(self._fetch_shard, *shard) for shard in fitting)

    def _cache_bytes(self, dataset: int, shard: int) -> int:
        """What a shard takes in the cache."""
        reader = self._sequence.readers[dataset]
        return 0 if reader.files.store.is_local else reader.shards[shard].bytes

    def _fetch_shard(self, dataset: int, shard: int) -> None:
        reader = self._sequence.readers[dataset]
        reader.files.prefetch(reader.shards[shard])
        if self._features:
            self._features[dataset].prefetch(shard)
