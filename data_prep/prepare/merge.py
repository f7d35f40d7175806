"""Merge the workers' shards: remove duplicates across the dataset, finalize the shards, write the manifest last."""

import hashlib
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BufferedRandom
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from data_prep.config import MANIFEST_NAME, PrepareConfig, ProgressCallback
from data_prep.errors import DataError
from data_prep.prepare.dedup import find_duplicates
from data_prep.prepare.plan import PLAN_LEDGER, WORK_DIR, Plan, ledger_line, load_shard
from data_prep.prepare.shard_writer import (
    count_reasons,
    draft_path,
    final_path,
    index_tar,
    load_if_current,
    write_draft,
    write_tar,
)
from data_prep.prepare.splits import SPLITS
from data_prep.records import Reject
from data_prep.shards.manifest import Manifest, Shard
from data_prep.shards.shard_index import Members, ShardIndex, index_path
from data_prep.shards.statistics import Statistics, merge_statistics
from data_prep.sources import open_source
from data_prep.storage.atomic import PARTIAL_PATTERN
from data_prep.storage.store import Store

REJECTS_NAME, STATISTICS_NAME = "rejects.jsonl", "statistics.json"
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
    Raises DataError if shards are missing or no image was kept. Needs about 150 bytes of memory per image.
    """
    totals = _Totals()
    with store.atomic_open(REJECTS_NAME) as rejects:
        with store.open(PLAN_LEDGER) as listed:
            rejects.writelines(listed)
        totals.reject_counts.update(plan.reject_counts)
        shards = zip(plan.shards, _duplicate_reasons(config, plan, store), strict=True)
        for done, (name, reasons) in enumerate(shards, 1):
            index = _finalize_shard(name, reasons, plan, config, store)
            rejects.writelines(map(ledger_line, index.rejects))
            totals.add(name.rpartition("-")[0], index)
            if on_progress:
                on_progress(done, len(plan.shards))
    manifest = _write_manifest(config, plan, totals, store)
    _remove_stale(plan, store)
    return manifest


def _duplicate_reasons(config: PrepareConfig, plan: Plan, store: Store) -> Iterator[NDArray[np.int8]]:
    """Yield for each shard an array with one code of ``REASONS`` for each of its images."""
    digests, hashes, counts, missing = bytearray(), array("Q"), list[int](), list[str]()
    for name in plan.shards:
        index = _load_draft(name, plan, store) or _load_final(name, plan, store)
        if index is None:
            missing.append(name)
            continue
        counts.append(len(index.sample_stats))
        for stats in index.sample_stats.values():
            digests += bytes.fromhex(stats.sha256)
            hashes.append(stats.hash or 0)
    if missing:
        raise DataError(
            f"output {config.output}: {len(missing)} of {len(plan.shards)} shards are missing ({missing[0]}, "
            "...); run all workers, then merge"
        )
    duplicates = find_duplicates(
        np.frombuffer(digests, np.uint8).reshape(-1, 32),
        np.asarray(hashes, np.uint64),
        config.filters.max_hash_distance,
    )
    reasons = np.where(duplicates.exact >= 0, 1, np.where(duplicates.near >= 0, 2, 0)).astype(np.int8)
    yield from np.split(reasons, np.cumsum(counts)[:-1])


def _finalize_shard(
    name: str, reasons: NDArray[np.int8], plan: Plan, config: PrepareConfig, store: Store
) -> ShardIndex:
    """Move a shard, without its duplicates, to its final location."""
    existing = _load_final(name, plan, store)
    if existing and list(existing.members) == list(compress(existing.sample_stats, reasons == 0)):
        return existing
    # A manifest marks a finished dataset, which this is not from here on.
    store.delete(MANIFEST_NAME)
    # Without a draft, an earlier merge removed duplicates whose originals are gone now: make the shard again.
    draft = _load_draft(name, plan, store) or write_draft(
        load_shard(plan, name, store), open_source(config), config, store
    )
    final = final_path(name)
    store.delete(index_path(final))
    if reasons.any():
        draft = _drop_duplicates(draft, reasons, name, store)
    else:
        store.move(draft_path(name), final)
    draft.save(store, final)
    return draft


def _load_draft(name: str, plan: Plan, store: Store) -> ShardIndex | None:
    return load_if_current(store, draft_path(name), plan.config_digest, plan.shards[name])


def _load_final(name: str, plan: Plan, store: Store) -> ShardIndex | None:
    return load_if_current(store, final_path(name), plan.config_digest, plan.shards[name])


def _drop_duplicates(draft: ShardIndex, reasons: NDArray[np.int8], name: str, store: Store) -> ShardIndex:
    """Copy the samples of a draft that are not duplicates to the final location."""
    duplicates = dict(compress(zip(draft.sample_stats, reasons.tolist(), strict=True), reasons))
    kept = {key: parts for key, parts in draft.members.items() if key not in duplicates}
    rejects = draft.rejects + [
        Reject(key=key, source=draft.sample_stats[key].source, reason=REASONS[reason])
        for key, reason in duplicates.items()
    ]
    with store.open(draft_path(name)) as old, store.atomic_open(final_path(name)) as new:
        write_tar(new, _copy_members(old, kept, store.url_of(draft_path(name))))
        updated = replace(draft, samples=len(kept), rejects=rejects, reject_counts=count_reasons(rejects))
        return index_tar(new, updated, store.url_of(final_path(name)))


def _copy_members(tar: BufferedRandom, members: Members, url: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and data of the members. Raises DataError if they are not those that were written."""
    for key, parts in members.items():
        for extension, member in parts.items():
            tar.seek(member.offset)
            data = tar.read(member.size)
            try:
                member.check(f"{key}.{extension}", data)
            except ValueError as error:
                raise DataError(f"shard {url}: sample {key} ({error}); delete the shard and rerun") from error
            yield f"{key}.{extension}", data


def _write_manifest(config: PrepareConfig, plan: Plan, totals: _Totals, store: Store) -> Manifest:
    """Write statistics.json and, last, the manifest. Raises DataError if no image was kept."""
    kept = sum(shard.samples for shards in totals.splits.values() for shard in shards)
    reject_counts = dict(sorted(totals.reject_counts.items()))
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
    """Delete shards that are no longer planned, partial files of interrupted runs, and the work folder."""
    planned = {name for shard in plan.shards for name in (final_path(shard), index_path(final_path(shard)))}
    for folder in ("", *SPLITS):
        for name in store.listdir(folder):
            is_shard_file = folder and re.fullmatch(rf"{folder}/{folder}-\d{{6,}}\.(tar|json)", name)
            if PARTIAL_PATTERN.search(name) or (is_shard_file and name not in planned):
                store.delete(name)
    store.delete_folder(WORK_DIR)


def _identity_hash(identity: str) -> int:
    """Return a 64-bit hash of an identity's name, which suffices to count distinct identities."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")
