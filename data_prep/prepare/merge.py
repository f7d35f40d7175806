"""Merge the workers' shards: remove duplicates across the dataset, finalize the shards, write the manifest last."""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedRandom
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from data_prep.config import MANIFEST_NAME, PrepareConfig, ProgressCallback
from data_prep.errors import DataError
from data_prep.prepare.dedup import find_duplicates
from data_prep.prepare.ownership import OUTPUT_FILES, is_shard_file, record_finalizing
from data_prep.prepare.plan import (
    PLAN_LEDGER,
    REJECTS_NAME,
    STATISTICS_NAME,
    WORK_DIR,
    Plan,
    add_counts,
    describe_counts,
    final_path,
    ledger_line,
    load_shard,
    no_captions_error,
)
from data_prep.prepare.shard_writer import (
    FinishedShard,
    count_reasons,
    draft_path,
    find_finished,
    load_if_current,
    read_members,
    write_draft,
)
from data_prep.prepare.splits import SPLITS
from data_prep.records import Reject
from data_prep.shards.manifest import Manifest, Shard
from data_prep.shards.shard_index import ShardIndex, index_path
from data_prep.shards.statistics import Statistics, merge_statistics
from data_prep.shards.tar_writer import write_tar
from data_prep.sources import open_source
from data_prep.storage.atomic import complete_name_of
from data_prep.storage.store import Store

REASONS = ("", "exact duplicate", "near duplicate")
"""Reject reasons of duplicates by code; code 0 means that the image is kept."""


@dataclass
class _Totals:
    """Totals over the whole dataset, accumulated shard by shard."""

    splits: dict[str, list[Shard]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    identities: dict[str, set[int]] = field(default_factory=lambda: {split: set() for split in SPLITS})
    reject_counts: Counter[str] = field(default_factory=Counter)
    retryable_counts: Counter[str] = field(default_factory=Counter)
    captions_missing: int = 0
    statistics: Statistics = field(default_factory=dict)

    def add(self, split: str, index: ShardIndex) -> None:
        self.splits[split].append(Shard(index.shard, index.samples, index.bytes, index.sha256))
        self.identities[split] |= {_identity_hash(index.sample_stats[key].identity) for key in index.members}
        self.reject_counts.update(index.reject_counts)
        self.retryable_counts.update(reject.reason for reject in index.rejects if reject.retryable)
        self.captions_missing += index.captions_missing
        self.statistics = merge_statistics((self.statistics, index.statistics))


def merge(config: PrepareConfig, plan: Plan, store: Store, on_progress: ProgressCallback | None = None) -> Manifest:
    """Finalize the dataset. The result does not depend on which worker made which shard.

    The first of several duplicates in the order train, val, test is kept, so no image of train reappears in test.
    Raises DataError if shards are missing, too many reads failed or no image was kept, and ConfigError if no image has
    the configured caption. Needs about 150 bytes of memory per image.
    """
    images = _survey(config, plan, store)
    _check_failed_reads(config, plan, images.retryable_counts, store)
    if config.source_options.expects_captions and 0 < sum(images.counts) == images.captions_missing:
        raise no_captions_error(config, images.captions_missing)
    duplicates = find_duplicates(images.sha256(), images.hashes(), config.filters.max_hash_distance)
    reasons = np.where(duplicates.exact >= 0, 1, np.where(duplicates.near >= 0, 2, 0)).astype(np.int8)
    shards = zip(plan.shards, np.split(reasons, np.cumsum(images.counts)[:-1]), strict=True)
    record_finalizing(list(plan.shards), store)
    totals = _Totals()
    with _open_ledger(store) as ledger:
        for done, (name, shard_reasons) in enumerate(shards, 1):
            index = _finalize_shard(name, shard_reasons, plan, config, store)
            ledger.writelines(map(ledger_line, index.rejects))
            totals.add(name.rpartition("-")[0], index)
            if on_progress:
                on_progress(done, len(plan.shards))
    manifest = _write_manifest(config, plan, totals, store)
    _remove_stale(plan, store)
    return manifest


@contextmanager
def _open_ledger(store: Store) -> Iterator[BufferedRandom]:
    """Open ``rejects.jsonl``, which begins with the entries that were rejected or ignored while listing."""
    with store.atomic_open(REJECTS_NAME) as ledger:
        with store.open(PLAN_LEDGER) as listed:
            ledger.writelines(listed)
        yield ledger


@dataclass
class _Survey:
    """What is known about the images of all shards before duplicates are removed."""

    digests: bytearray = field(default_factory=bytearray)
    perceptual_hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    counts: list[int] = field(default_factory=list)
    """Number of images of each shard."""
    captions_missing: int = 0
    retryable_counts: Counter[str] = field(default_factory=Counter)

    def sha256(self) -> NDArray[np.uint8]:
        """Return the SHA-256 digests of the originals: (images, 32)."""
        return np.frombuffer(self.digests, np.uint8).reshape(-1, 32)

    def hashes(self) -> NDArray[np.uint64]:
        """Return the perceptual hashes: (images,)."""
        return np.asarray(self.perceptual_hashes, np.uint64)


def _survey(config: PrepareConfig, plan: Plan, store: Store) -> _Survey:
    """Collect digests and hashes of all images. Raises DataError if shards are missing."""
    images, missing = _Survey(), list[str]()
    for name in plan.shards:
        finished = _find_finished(name, plan, store)
        if finished is None:
            missing.append(name)
            continue
        images.counts.append(len(finished.index.sample_stats))
        images.retryable_counts.update(reject.reason for reject in finished.index.rejects if reject.retryable)
        for stats in finished.index.sample_stats.values():
            images.digests += bytes.fromhex(stats.sha256)
            images.perceptual_hashes.append(stats.hash or 0)
            images.captions_missing += stats.caption_missing
    if missing:
        raise DataError(
            f"output {config.output}: {len(missing)} of {len(plan.shards)} shards are missing ({missing[0]}, "
            "...); run all workers, then merge"
        )
    return images


def _check_failed_reads(config: PrepareConfig, plan: Plan, failed: Counter[str], store: Store) -> None:
    """Raise DataError, after listing them, if more reads failed than ``data.read.max_failed_fraction`` allows."""
    if failed.total() <= config.read.max_failed_fraction * plan.num_images:
        return
    with _open_ledger(store) as ledger:
        for name in plan.shards:
            finished = _find_finished(name, plan, store)
            ledger.writelines(map(ledger_line, finished.index.rejects if finished else ()))
    raise DataError(
        f"output {config.output} is not finished: {failed.total()} of {plan.num_images} images could not be read, for "
        f"reasons that may be temporary ({describe_counts(failed)}); {store.url_of(REJECTS_NAME)} lists them: rerun to "
        "read exactly these again, or allow them with data.read.max_failed_fraction"
    )


def _finalize_shard(
    name: str, reasons: NDArray[np.int8], plan: Plan, config: PrepareConfig, store: Store
) -> ShardIndex:
    """Move a shard, without its duplicates, to its final location."""
    draft, final = _load(draft_path(name), name, plan, store), _load(final_path(name), name, plan, store)
    is_newest = draft is None or (final and draft.sample_stats.keys() == final.sample_stats.keys())
    if final and is_newest and list(final.members) == list(compress(final.sample_stats, reasons == 0)):
        return final
    # A manifest marks a finished dataset, which this is not from here on.
    store.delete(MANIFEST_NAME)
    if draft is None:
        # An earlier merge removed duplicates whose originals are gone now: process these again.
        finished = FinishedShard(final_path(name), final) if final else None
        draft = write_draft(load_shard(plan, name, store), open_source(config), config, store, finished=finished)
    target = final_path(name)
    store.delete(index_path(target))
    if reasons.any():
        draft = _drop_duplicates(draft, reasons, name, store)
    else:
        store.move(draft_path(name), target)
    draft.save(store, target)
    return draft


def _find_finished(name: str, plan: Plan, store: Store) -> FinishedShard | None:
    return find_finished(store, name, plan.config_digest, plan.shards[name])


def _load(tar: str, name: str, plan: Plan, store: Store) -> ShardIndex | None:
    return load_if_current(store, tar, plan.config_digest, plan.shards[name])


def _drop_duplicates(draft: ShardIndex, reasons: NDArray[np.int8], name: str, store: Store) -> ShardIndex:
    """Copy the samples of a draft that are not duplicates to the final location."""
    duplicates = dict(compress(zip(draft.sample_stats, reasons.tolist(), strict=True), reasons))
    kept = {key: parts for key, parts in draft.members.items() if key not in duplicates}
    rejects = draft.rejects + [
        Reject(key=key, source=draft.sample_stats[key].source, reason=REASONS[reason])
        for key, reason in duplicates.items()
    ]
    with store.open(draft_path(name)) as old, store.atomic_open(final_path(name)) as new:
        written = write_tar(new, read_members(old, kept, store.url_of(draft_path(name))))
    return replace(
        draft,
        samples=len(kept),
        rejects=rejects,
        reject_counts=count_reasons(rejects),
        bytes=written.bytes,
        sha256=written.sha256,
        members=written.members,
    )


def _write_manifest(config: PrepareConfig, plan: Plan, totals: _Totals, store: Store) -> Manifest:
    """Write statistics.json and, last, the manifest. Raises DataError if no image was kept."""
    kept = sum(shard.samples for shards in totals.splits.values() for shard in shards)
    reject_counts = add_counts(plan.reject_counts, totals.reject_counts)
    if not kept:
        reasons = ", ".join(f"{reason} {number}" for reason, number in reject_counts.items())
        raise DataError(
            f"source {config.source}: every image was rejected ({reasons}); see {store.url_of(REJECTS_NAME)}"
        )
    summaries = {name: moments.summary() for name, moments in sorted(totals.statistics.items())}
    store.write(STATISTICS_NAME, json.dumps(summaries, indent=1) + "\n")
    manifest = Manifest(
        domain=config.domain,
        resolution=config.resolution,
        format=config.format,
        config_digest=config.digest,
        identities={split: len(names) for split, names in totals.identities.items()},
        kept=kept,
        reject_counts=reject_counts,
        retryable_counts=dict(sorted(totals.retryable_counts.items())),
        ignored_counts=plan.ignored_counts,
        captions_missing=totals.captions_missing,
        splits=totals.splits,
    )
    manifest.save(store)
    return manifest


def _remove_stale(plan: Plan, store: Store) -> None:
    """Delete shards that are no longer planned, partial files of interrupted runs, and the working folder."""
    planned = {name for shard in plan.shards for name in (final_path(shard), index_path(final_path(shard)))}
    for folder in ("", *SPLITS):
        for name in store.listdir(folder):
            complete_name = complete_name_of(name)
            is_partial = complete_name in OUTPUT_FILES or (complete_name and is_shard_file(complete_name))
            if is_partial or (is_shard_file(name) and name not in planned):
                store.delete(name)
    store.delete_folder(WORK_DIR)


def _identity_hash(identity: str) -> int:
    """Return a 64-bit hash of an identity's name, which suffices to count distinct identities."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")
