"""One rank's slices of batches, loaded ahead."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from queue import SimpleQueue

from torch import Tensor

from data_prep.errors import DataError, Unreadable
from data_prep.shards.features import FeatureReader
from data_prep.shards.samples import About
from data_prep.stream.buffers import Decoder, FeatureRows, PixelRows, Rows
from data_prep.stream.decoder import Answer, Task
from data_prep.stream.prefetch import Prefetcher
from data_prep.stream.sample_sequence import Line

TASKS_AT_ONCE = 8
"""Most pictures that a decoder is given at once: enough to make the hand-over cheap, few enough to share them out."""
MOST_TRIES = 32
"""Readings in a row that may fail before it is clear that the set, and not a sample, is lost; or two windows of shards,
if those are more."""
Row = tuple[About, str | None]
"""What is known of a sample, and which one it stands for if that could not be read."""


@dataclass(frozen=True)
class Loaded:
    """A rank's slice of a batch."""

    abouts: list[About]
    """What is known of each sample."""
    tensors: dict[str, Tensor]
    """The samples."""
    indices: list[int]
    """Global positions."""
    skipped: list[str]
    """Samples that could not be read."""


@dataclass(frozen=True)
class Loading:
    """A slice that workers are at."""

    indices: list[int]
    """Global positions."""
    parts: list[Future[list[Row]]]
    """The rows, some at a time."""
    collect: Callable[[], dict[str, Tensor]]
    """The samples, once all parts are done."""

    def result(self) -> Loaded:
        """Wait for it. Raises DataError."""
        rows = [row for part in self.parts for row in part.result()]
        skipped = [key for _, key in rows if key is not None]
        return Loaded([about for about, _ in rows], self.collect(), self.indices, skipped)


class Loader:
    """Loads slices of ``share`` samples, up to ``prefetch`` + 1 at a time."""

    def __init__(self, line: Line, share: int, features: FeatureReader | None) -> None:
        """Nothing starts before the first slice does."""
        self._line, self._share, self._config = line, share, line.config
        self._features = [features, *(features.beside(root) for root in line.roots[1:])] if features else []
        self._slots = self._config.prefetch + 1
        self._lost: set[tuple[int, int, int]] = set()
        self._rows: Rows | None = None
        self._slot, self._windows = 0, list[tuple[int, int]]()

    def start(self, index: int) -> Loading:
        """Begin with the slice at a global position. The results of all but the last ``prefetch`` must be there."""
        if self._rows is None:
            self._open()
        self._look_ahead(index)
        first = self._slot * self._share
        self._slot = (self._slot + 1) % self._slots
        size = max(1, min(TASKS_AT_ONCE, -(-self._share // self._threads)))
        parts = [
            self._pool.submit(self._load, index + start, first + start, min(size, self._share - start))
            for start in range(0, self._share, size)
        ]
        indices = list(range(index, index + self._share))
        return Loading(indices, parts, partial(self._rows.collect, first, self._share))  # type: ignore[union-attr]

    def close(self) -> None:
        """Stop everything; a later start begins anew."""
        rows, self._rows = self._rows, None
        if rows is None:
            return
        self._prefetcher.close()
        for decoder in rows.decoders:
            decoder.close()  # threads that wait for it need not wait on
        self._pool.shutdown(wait=True, cancel_futures=True)
        rows.close()

    def _open(self) -> None:
        count = self._slots * self._share
        self._rows = FeatureRows(self._line, count, self._features) if self._features else PixelRows(self._line, count)
        self._threads = len(self._rows.decoders)
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        for decoder in self._rows.decoders:
            self._idle.put(decoder)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="shard-stream")
        self._prefetcher = Prefetcher()
        self._slot, self._windows = 0, []

    def _load(self, index: int, into: int, count: int) -> list[Row]:
        """So many samples from a position on."""
        decoder = self._idle.get()
        try:
            tasks = [Task(into + row, *self._line.spot(index + row)) for row in range(count)]
            wanted = [task for task in tasks if not self._is_lost(task)]
            answers = dict(zip(wanted, decoder.decode(wanted), strict=True))
            return [self._settled(decoder, index + row, task, answers.get(task)) for row, task in enumerate(tasks)]
        finally:
            self._idle.put(decoder)

    def _settled(self, decoder: Decoder, index: int, task: Task, answer: Answer | None) -> Row:
        """The sample, or the next one in the line that can be read: the same whichever rank asks."""
        skipped, tries = None, 0
        while not isinstance(answer, About):
            skipped = skipped or (answer.sample if answer else self._name(task))
            if answer:
                self._take_note(task, answer)
                tries += 1
                if tries >= max(MOST_TRIES, 2 * self._config.window_shards):
                    raise DataError(f"{tries} samples in a row cannot be read, the last because: {answer}") from answer
            index += 1
            task = Task(task.into, *self._line.spot(index))
            answer = None if self._is_lost(task) else decoder.decode([task])[0]
        return answer, skipped

    def _take_note(self, task: Task, error: Unreadable) -> None:
        if self._config.damaged == "stop":
            raise error
        if error.whole_shard:
            self._lost.add((task.source, task.epoch, task.shard))

    def _is_lost(self, task: Task) -> bool:
        """Whether the shard was found lost in this epoch; in the next it may be there again."""
        return (task.source, task.epoch, task.shard) in self._lost

    def _name(self, task: Task) -> str:
        return self._line.readers[task.source].name(task.shard, task.row)

    def _look_ahead(self, index: int) -> None:
        """Fetch this window's shards and then, as far as the cache has room, the next one's."""
        windows = self._line.windows(index)
        if windows == self._windows:
            return
        self._windows = windows
        spans = [order.shards_from(*window) for order, window in zip(self._line.orders, windows, strict=True)]
        shards = [(source, shard) for _ in ("now", "then") for source, span in enumerate(spans) for shard in next(span)]
        used = accumulate(self._bytes(*shard) for shard in shards)
        fitting = [shard for shard, end in zip(shards, used, strict=True) if end <= self._config.cache_bytes]
        self._prefetcher.want(partial(self._fetch, *shard) for shard in fitting)

    def _bytes(self, source: int, shard: int) -> int:
        """What a shard takes in the cache."""
        reader = self._line.readers[source]
        return 0 if reader.files.store.local else reader.shards[shard].bytes

    def _fetch(self, source: int, shard: int) -> None:
        reader = self._line.readers[source]
        reader.files.fetch_ahead(reader.shards[shard])
        if self._features:
            self._features[source].fetch_ahead(shard)
