"""Write shards: plain webdataset tars that appear atomically and have reproducible bytes.

A shard with images whose reads failed is written again from the finished one: only those images are read.
"""

import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import BufferedRandom

from data_prep.config import PrepareConfig
from data_prep.errors import DataError, SampleRejected
from data_prep.images.transform import ProcessedImage, process_image
from data_prep.prepare.plan import WORK_DIR, PlannedShard, final_path
from data_prep.records import Ignored, Record, Reject, Source
from data_prep.shards.shard_index import Members, SampleStats, ShardIndex, index_path
from data_prep.shards.tar_writer import write_tar
from data_prep.storage.store import Store

DRAFTS_DIR = f"{WORK_DIR}/drafts"
"""Folder of shards that may still contain duplicates."""
READ_AHEAD = 8
"""Number of images fetched ahead, which hides the latency of a remote store and bounds memory use."""


def draft_path(name: str) -> str:
    """Return the path of a shard before duplicates are removed."""
    return f"{DRAFTS_DIR}/{name}.tar"


def load_if_current(store: Store, tar: str, config_digest: str, plan_digest: str) -> ShardIndex | None:
    """Return the index of a shard if it was finished from the same records and configuration, else None."""
    size = store.size(tar)
    if size is None:
        return None
    try:
        index = ShardIndex.load(store, tar)
    except DataError:
        return None
    same = (index.config_digest, index.plan_digest) == (config_digest, plan_digest)
    return index if same and size == index.bytes else None


@dataclass(frozen=True)
class FinishedShard:
    """A shard that was written from the same plan, from which samples can be copied."""

    tar: str
    """Path of the tar in the output."""
    index: ShardIndex
    """Its index."""


@dataclass(frozen=True)
class RetryPolicy:
    """Which rejected images are read again."""

    reasons: tuple[str, ...] = ()
    """Beginnings of reasons, such as ``http``; rejects whose reason may be temporary are always read again."""

    def applies_to(self, reject: Reject) -> bool:
        """Return whether the image is to be read again."""
        return reject.retryable or reject.reason.startswith(self.reasons)


NO_EXTRA_RETRIES = RetryPolicy()
"""Only rejects whose reason may be temporary are read again."""


def find_finished(store: Store, name: str, config_digest: str, plan_digest: str) -> FinishedShard | None:
    """Return the shard that was finished from the same records and configuration, or None; a draft is the newer one."""
    for tar in (draft_path(name), final_path(name)):
        index = load_if_current(store, tar, config_digest, plan_digest)
        if index:
            return FinishedShard(tar, index)
    return None


def write_draft(
    shard: PlannedShard,
    source: Source,
    config: PrepareConfig,
    store: Store,
    *,
    finished: FinishedShard | None = None,
    retry: RetryPolicy = NO_EXTRA_RETRIES,
) -> ShardIndex:
    """Process all images of a shard. Tar and index are written atomically, the index last.

    With ``finished``, only the images that it lacks are processed: those that ``retry`` applies to, and duplicates
    that a merge has removed. All others are copied from it, so that the result is that of an undisturbed run.
    """
    started = time.time()
    tar, stats, rejects = draft_path(shard.name), dict[str, SampleStats](), list[Reject]()
    with ExitStack() as stack:
        copy = _SampleCopy(finished, retry, store, stack)
        file = stack.enter_context(store.atomic_open(tar))
        written = write_tar(file, _process_records(shard, source, config, copy, stats, rejects))
        index = ShardIndex(
            shard=f"{shard.name}.tar",
            config_digest=config.digest,
            plan_digest=shard.digest,
            samples=len(stats),
            reject_counts=count_reasons(rejects),
            rejects=rejects,
            bytes=written.bytes,
            sha256=written.sha256,
            members=written.members,
            sample_stats=stats,
            started=started,
            seconds=round(time.time() - started, 3),
        )
        store.delete(index_path(tar))  # a tar must never lie next to the index of another one
    index.save(store, tar)
    return index


class _SampleCopy:
    """Samples and rejects of a finished shard that are taken over into a new one; none without a finished shard."""

    def __init__(self, finished: FinishedShard | None, retry: RetryPolicy, store: Store, stack: ExitStack) -> None:
        self.stats: dict[str, SampleStats] = {}
        self.rejects: dict[str, Reject] = {}
        self._members: Members = {}
        if finished:
            index = finished.index
            self.stats, self._members = index.sample_stats, index.members
            # Duplicates that a merge has removed are rejects, too, but have to be processed again.
            self.rejects = {
                reject.key: reject
                for reject in index.rejects
                if not retry.applies_to(reject) and reject.key not in index.sample_stats
            }
            file = stack.enter_context(store.open(finished.tar))
            self._read = partial(read_members, file, url=store.url_of(finished.tar))
        self.keys = self._members.keys() | self.rejects.keys()

    def members(self, key: str) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of a sample's members."""
        yield from self._read({key: self._members[key]})


def read_members(tar: BufferedRandom, members: Members, url: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of members of a shard. Raises DataError if they are not those that were written."""
    for key, parts in members.items():
        for extension, member in parts.items():
            tar.seek(member.offset)
            data = tar.read(member.size)
            try:
                member.check(f"{key}.{extension}", data)
            except ValueError as error:
                raise DataError(f"shard {url}: sample {key} ({error}); delete the shard and rerun") from error
            yield f"{key}.{extension}", data


def count_reasons(entries: Iterable[Reject | Ignored]) -> dict[str, int]:
    """Count entries by reason."""
    return dict(sorted(Counter(entry.reason for entry in entries).items()))


def _process_records(
    shard: PlannedShard,
    source: Source,
    config: PrepareConfig,
    copy: _SampleCopy,
    stats: dict[str, SampleStats],
    rejects: list[Reject],
) -> Iterator[tuple[str, bytes]]:
    """Yield the members of all samples in the order of the plan; fill ``stats`` and ``rejects``."""
    fetched = _prefetched((record for record in shard.records if record.key not in copy.keys), source)
    for record in shard.records:
        if record.key in copy.rejects:
            rejects.append(copy.rejects[record.key])
        elif record.key in copy.keys:
            stats[record.key] = copy.stats[record.key]
            yield from copy.members(record.key)
        else:
            sample = _process_record(record, next(fetched), config)
            if isinstance(sample, Reject):
                rejects.append(sample)
            else:
                stats[record.key] = sample.stats
                yield f"{record.key}.{config.format}", sample.image
                yield f"{record.key}.json", sample.metadata


@dataclass(frozen=True)
class _Sample:
    """A processed image."""

    image: bytes
    metadata: bytes
    stats: SampleStats


Fetched = Future[tuple[bytes, str | None]]
"""Content and caption of an image that is being read."""


def _process_record(record: Record, fetched: Fetched, config: PrepareConfig) -> _Sample | Reject:
    try:
        data, caption = fetched.result()
        text = caption or config.default_caption()
        image = process_image(data, record, text, config)
    except SampleRejected as error:
        return Reject.from_error(error, key=record.key, source=record.source)
    metadata = json.dumps(_sample_metadata(record, text, image, config), ensure_ascii=False).encode()
    caption_missing = record.has_caption is not None and not caption
    return _Sample(image.data, metadata, _sample_stats(record, image, caption_missing=caption_missing))


def _prefetched(records: Iterable[Record], source: Source) -> Iterator[Fetched]:
    """Yield futures of the records' bytes and captions, fetched ahead by threads."""
    pending: deque[Fetched] = deque()
    pool = ThreadPoolExecutor(READ_AHEAD)
    try:
        for record in records:
            pending.append(pool.submit(_fetch, record, source))
            if len(pending) > READ_AHEAD:
                yield pending.popleft()
        yield from pending
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after a signal, nobody waits for a server that does not answer


def _fetch(record: Record, source: Source) -> tuple[bytes, str | None]:
    try:
        return source.read(record), source.caption(record)
    except OSError as error:
        # Sources say what may be temporary; of any other error it is not known, so that the next run tries again.
        raise SampleRejected("unreadable", cause=str(error), retryable=True) from error


def _sample_metadata(record: Record, caption: str, image: ProcessedImage, config: PrepareConfig) -> dict[str, object]:
    return {
        "domain": config.domain,
        "identity": record.identity,
        "caption": caption,
        "source": record.source,
        "original_size": image.original_size,
        "sha256": image.sha256,
        "crop_box": image.crop_box,
        "scores": image.scores,
        "columns": record.columns,
    }


def _sample_stats(record: Record, image: ProcessedImage, *, caption_missing: bool) -> SampleStats:
    width, height = image.original_size
    metrics = {"width": width, "height": height, "stored_bytes": len(image.data)} | image.scores
    return SampleStats(
        identity=record.identity,
        source=record.source,
        sha256=image.sha256,
        hash=image.hash,
        metrics=metrics,
        caption_missing=caption_missing,
    )
