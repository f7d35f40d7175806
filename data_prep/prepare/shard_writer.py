"""Write shards: plain webdataset tars that appear atomically and have reproducible bytes."""

import io
import json
import tarfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from io import BufferedRandom

from data_prep.config import PrepareConfig
from data_prep.errors import DataError, SampleRejected
from data_prep.images.transform import ProcessedImage, process_image
from data_prep.prepare.plan import WORK_DIR, PlannedShard
from data_prep.records import Ignored, Record, Reject, Source
from data_prep.shards.shard_index import Members, SampleStats, ShardIndex, index_path
from data_prep.shards.tar_scan import TarScan
from data_prep.storage.store import Store

DRAFTS_DIR = f"{WORK_DIR}/drafts"
"""Folder of shards that may still contain duplicates."""
READ_AHEAD = 8
"""Number of images fetched ahead, which hides the latency of a remote store and bounds memory use."""


def draft_path(name: str) -> str:
    """Return the path of a shard before duplicates are removed."""
    return f"{DRAFTS_DIR}/{name}.tar"


def final_path(name: str) -> str:
    """Return the path of a shard in the finished dataset."""
    return f"{name.rpartition('-')[0]}/{name}.tar"


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


def write_draft(shard: PlannedShard, source: Source, config: PrepareConfig, store: Store) -> ShardIndex:
    """Process all images of a shard. Tar and index are written atomically, the index last."""
    started = time.time()
    tar, stats, rejects = draft_path(shard.name), dict[str, SampleStats](), list[Reject]()
    store.delete(index_path(tar))  # a tar must never lie next to the index of another one
    with store.atomic_open(tar) as file:
        write_tar(file, _process_records(shard, source, config, stats, rejects))
        index = index_tar(
            file,
            ShardIndex(
                shard=f"{shard.name}.tar",
                config_digest=config.digest,
                plan_digest=shard.digest,
                samples=len(stats),
                reject_counts=count_reasons(rejects),
                rejects=rejects,
                captions_missing=0,
                bytes=0,
                sha256="",
                members={},
                sample_stats=stats,
                started=started,
                seconds=0.0,
            ),
            store.url_of(tar),
        )
    index.save(store, tar)
    return index


def write_tar(file: BufferedRandom, members: Iterable[tuple[str, bytes]]) -> None:
    """Write members to a tar whose bytes depend only on their content: no time, no owner, a fixed mode."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def index_tar(file: BufferedRandom, index: ShardIndex, url: str) -> ShardIndex:
    """Complete an index from the written tar: location and checksum of the members, SHA-256, size and duration.

    Raises DataError if samples are missing from the tar.
    """
    file.flush()
    file.seek(0)
    members: Members = {}
    scan = TarScan(file)
    for name, member, _ in scan:
        key, _, extension = name.rpartition(".")
        members.setdefault(key, {})[extension] = member
    if len(members) != index.samples or any(len(parts) != 2 for parts in members.values()):
        raise DataError(
            f"shard {url}: {len(members)} samples read back, {index.samples} written; check the disk and rerun"
        )
    seconds = round(time.time() - index.started, 3)
    return replace(index, members=members, sha256=scan.sha256, bytes=scan.size, seconds=seconds)


def count_reasons(entries: Iterable[Reject | Ignored]) -> dict[str, int]:
    """Count entries by reason."""
    return dict(sorted(Counter(entry.reason for entry in entries).items()))


def _process_records(
    shard: PlannedShard, source: Source, config: PrepareConfig, stats: dict[str, SampleStats], rejects: list[Reject]
) -> Iterator[tuple[str, bytes]]:
    for record, fetched in _prefetched(shard.records, source):
        try:
            data, caption = fetched.result()
            caption = caption or config.default_caption()
            image = process_image(data, record, caption, config)
        except OSError:
            rejects.append(Reject(key=record.key, source=record.source, reason="unreadable"))
        except SampleRejected as error:
            rejects.append(
                Reject(
                    key=record.key,
                    source=record.source,
                    reason=error.reason,
                    cause=error.cause,
                    retryable=error.retryable,
                )
            )
        else:
            stats[record.key] = _sample_stats(record, image)
            metadata = _sample_metadata(record, caption, image, config)
            yield f"{record.key}.{config.format}", image.data
            yield f"{record.key}.json", json.dumps(metadata, ensure_ascii=False).encode()


def _prefetched(records: Iterable[Record], source: Source) -> Iterator[tuple[Record, Future[tuple[bytes, str | None]]]]:
    """Yield records with futures of their bytes and captions, fetched ahead by threads."""
    pending: deque[tuple[Record, Future[tuple[bytes, str | None]]]] = deque()
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        for record in records:
            pending.append((record, pool.submit(_fetch, record, source)))
            if len(pending) > READ_AHEAD:
                yield pending.popleft()
        yield from pending


def _fetch(record: Record, source: Source) -> tuple[bytes, str | None]:
    return source.read(record), source.caption(record)


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


def _sample_stats(record: Record, image: ProcessedImage) -> SampleStats:
    width, height = image.original_size
    metrics = {"width": width, "height": height, "stored_bytes": len(image.data)} | image.scores
    return SampleStats(
        identity=record.identity, source=record.source, sha256=image.sha256, hash=image.hash, metrics=metrics
    )
