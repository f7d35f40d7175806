"""A shard: a plain webdataset tar, written whole or not at all, the same bytes every time."""

import hashlib
import io
import json
import tarfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from io import BufferedRandom

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.images.transform import Picture, make_picture
from data_prep.prepare.plan import PlannedShard
from data_prep.records import Record, Reject, Rejected, Source
from data_prep.shards.shard_index import Facts, Members, Sidecar, path_of
from data_prep.storage.store import Store

DRAFTS = "work/drafts"
READ_AHEAD = 8
"""Pictures fetched while others are made: hides a store's latency, and bounds what is in memory."""


def draft_of(name: str) -> str:
    """Where a shard lies until copies are found: it still has every picture that is fit."""
    return f"{DRAFTS}/{name}.tar"


def final_of(name: str) -> str:
    """Where a shard lies in the finished set."""
    return f"{name.rpartition('-')[0]}/{name}.tar"


def finished(store: Store, tar: str, config_digest: str, plan_digest: str) -> Sidecar | None:
    """The sidecar of a shard that was finished from the same pictures and configuration."""
    size = store.size(tar)
    if size is None:
        return None
    try:
        sidecar = Sidecar.load(store, tar)
    except DataError:
        return None
    same = (sidecar.config_digest, sidecar.plan_digest) == (config_digest, plan_digest)
    return sidecar if same and size == sidecar.bytes else None


def write_draft(shard: PlannedShard, source: Source, config: PrepareConfig, store: Store) -> Sidecar:
    """Make every picture of a shard. Tar and sidecar appear by rename, the sidecar last."""
    started = time.time()
    tar, facts, rejects = draft_of(shard.name), dict[str, Facts](), list[Reject]()
    store.delete(path_of(tar))  # a shard and a sidecar that do not belong together must never lie side by side
    with store.whole(tar) as file:
        write_tar(file, _members(shard, source, config, facts, rejects))
        sidecar = read_back(
            file,
            Sidecar(
                shard=f"{shard.name}.tar",
                config_digest=config.digest,
                plan_digest=shard.digest,
                samples=len(facts),
                dropped=count(asdict(reject) for reject in rejects),
                rejects=[asdict(reject) for reject in rejects],
                bytes=0,
                sha256="",
                members={},
                facts=facts,
                started=started,
                seconds=0.0,
            ),
            store.where(tar),
        )
    sidecar.save(store, tar)
    return sidecar


def write_tar(file: BufferedRandom, members: Iterable[tuple[str, bytes]]) -> None:
    """Write members in their order. Their bytes follow from the content alone: no time, no owner, a fixed mode."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def read_back(file: BufferedRandom, sidecar: Sidecar, where: str) -> Sidecar:
    """Complete the sidecar from the written tar: where each member lies, the sha256, the size and the time it took.

    Raises DataError if not every sample is there.
    """
    file.flush()
    file.seek(0)
    members: Members = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            key, _, extension = info.name.rpartition(".")
            members.setdefault(key, {})[extension] = (info.offset_data, info.size)
    if len(members) != sidecar.samples or any(len(parts) != 2 for parts in members.values()):
        raise DataError(
            f"shard {where}: {len(members)} samples read back, {sidecar.samples} written; check the disk and rerun"
        )
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    seconds = round(time.time() - sidecar.started, 3)
    return replace(sidecar, members=members, sha256=digest, bytes=file.tell(), seconds=seconds)


def count(rejects: Iterable[dict[str, str]]) -> dict[str, int]:
    """How many, by reason."""
    return dict(sorted(Counter(reject["reason"] for reject in rejects).items()))


def _members(
    shard: PlannedShard, source: Source, config: PrepareConfig, facts: dict[str, Facts], rejects: list[Reject]
) -> Iterator[tuple[str, bytes]]:
    for record, fetched in _fetched(shard.records, source):
        try:
            data, caption = fetched.result()
            caption = caption or config.default_caption()
            picture = make_picture(data, record, caption, config)
        except OSError:
            rejects.append(Reject(key=record.key, source=record.source, reason="unreadable"))
        except Rejected as reason:
            rejects.append(Reject(key=record.key, source=record.source, reason=str(reason)))
        else:
            facts[record.key] = _facts(record, picture)
            about = _about(record, caption, picture, config)
            yield f"{record.key}.{config.codec}", picture.data
            yield f"{record.key}.json", json.dumps(about, ensure_ascii=False).encode()


def _fetched(records: Iterable[Record], source: Source) -> Iterator[tuple[Record, Future[tuple[bytes, str | None]]]]:
    """Records with their bytes and captions, a few read ahead."""
    waiting: deque[tuple[Record, Future[tuple[bytes, str | None]]]] = deque()
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        for record in records:
            waiting.append((record, pool.submit(_fetch, record, source)))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft()
        yield from waiting


def _fetch(record: Record, source: Source) -> tuple[bytes, str | None]:
    return source.read(record), source.caption(record)


def _about(record: Record, caption: str, picture: Picture, config: PrepareConfig) -> dict[str, object]:
    return {
        "concept": config.concept,
        "identity": record.identity,
        "caption": caption,
        "source": record.source,
        "original_size": picture.original_size,
        "sha256": picture.sha256,
        "crop_box": picture.crop_box,
        "scores": picture.scores,
        "columns": record.columns,
    }


def _facts(record: Record, picture: Picture) -> Facts:
    width, height = picture.original_size
    numbers = {"width": width, "height": height, "stored_bytes": len(picture.data)} | picture.scores
    return Facts(
        identity=record.identity, source=record.source, sha256=picture.sha256, hash=picture.hash, numbers=numbers
    )
