"""Join what ranks made: find copies over the whole set, publish the shards without them, write the manifest last."""

import hashlib
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BufferedRandom
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.dedup import copies
from data_prep.prepare.plan import REJECTS, Plan, json_line, load_shard
from data_prep.prepare.shard_writer import count, draft_of, final_of, finished, read_back, write_draft, write_tar
from data_prep.prepare.splits import SPLITS
from data_prep.shards.manifest import Manifest, Shard
from data_prep.shards.shard_index import Members, Sidecar, path_of
from data_prep.shards.statistics import Statistics, add
from data_prep.sources import open_source
from data_prep.storage.atomic import PARTIAL
from data_prep.storage.store import Store

EXACT, NEAR = "exact duplicate", "near duplicate"
REASONS = ("", EXACT, NEAR)


@dataclass
class _Totals:
    """What is said of the whole set, gathered shard by shard."""

    splits: dict[str, list[Shard]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    identities: dict[str, set[int]] = field(default_factory=lambda: {split: set() for split in SPLITS})
    dropped: Counter[str] = field(default_factory=Counter)
    statistics: Statistics = field(default_factory=dict)

    def add(self, split: str, sidecar: Sidecar) -> None:
        self.splits[split].append(Shard(sidecar.shard, sidecar.samples, sidecar.bytes, sidecar.sha256))
        self.identities[split] |= {_number(sidecar.facts[key].identity) for key in sidecar.members}
        self.dropped.update(sidecar.dropped)
        self.statistics = add((self.statistics, sidecar.statistics))


def merge(
    config: PrepareConfig, plan: Plan, store: Store, on_shard: Callable[[int, int], None] | None = None
) -> Manifest:
    """Publish the set; the result does not depend on who made which shard.

    Of copies the first in the set's order (train, val, test) is kept, so nothing of train comes back in test. Raises
    DataError if shards are missing or nothing was kept. About 150 bytes a picture are held.
    """
    totals = _Totals()
    with store.whole("rejects.jsonl") as rejects:
        with store.open(REJECTS) as listed:
            for line in listed:
                rejects.write(line)
                totals.dropped[json.loads(line)["reason"]] += 1
        shards = zip(plan.shards, _reasons(config, plan, store), strict=True)
        for done, (name, reasons) in enumerate(shards, 1):
            sidecar = _publish(name, reasons, plan, config, store)
            rejects.writelines(json_line(reject) for reject in sidecar.rejects)
            totals.add(name.rpartition("-")[0], sidecar)
            if on_shard:
                on_shard(done, len(plan.shards))
    manifest = _manifest(config, totals, store)
    _remove_stale(plan, store)
    return manifest


def _reasons(config: PrepareConfig, plan: Plan, store: Store) -> Iterator[NDArray[np.int8]]:
    """For each shard, for each of its fit pictures: 0, or the place in ``REASONS`` of why it is left out as a copy."""
    digests, hashes, counts, missing = bytearray(), array("Q"), list[int](), list[str]()
    for name in plan.shards:
        sidecar = _draft(name, plan, store) or _final(name, plan, store)
        if sidecar is None:
            missing.append(name)
            continue
        counts.append(len(sidecar.facts))
        for facts in sidecar.facts.values():
            digests += bytes.fromhex(facts.sha256)
            hashes.append(facts.hash or 0)
    if missing:
        raise DataError(
            f"output {config.output}: {len(missing)} of {len(plan.shards)} shards are not made yet ({missing[0]}, "
            "...); run the work of every rank, then merge"
        )
    found = copies(
        np.frombuffer(digests, np.uint8).reshape(-1, 32), np.asarray(hashes, np.uint64), config.select.near_duplicates
    )
    reasons = np.where(found.exact >= 0, 1, np.where(found.near >= 0, 2, 0)).astype(np.int8)
    yield from np.split(reasons, np.cumsum(counts)[:-1])


def _publish(name: str, reasons: NDArray[np.int8], plan: Plan, config: PrepareConfig, store: Store) -> Sidecar:
    """Put the shard, without its copies, into its place."""
    there = _final(name, plan, store)
    if there and list(there.members) == list(compress(there.facts, reasons == 0)):
        return there
    # A set with a manifest is taken for finished, which it is not from here on.
    store.delete("manifest.json")
    # Without a draft an earlier merge left out copies whose originals are gone: they come back.
    draft = _draft(name, plan, store) or write_draft(load_shard(plan, name, store), open_source(config), config, store)
    final = final_of(name)
    store.delete(path_of(final))
    if reasons.any():
        draft = _without_copies(draft, reasons, name, store)
    else:
        store.move(draft_of(name), final)
    draft.save(store, final)
    return draft


def _draft(name: str, plan: Plan, store: Store) -> Sidecar | None:
    return finished(store, draft_of(name), plan.config_digest, plan.shards[name])


def _final(name: str, plan: Plan, store: Store) -> Sidecar | None:
    return finished(store, final_of(name), plan.config_digest, plan.shards[name])


def _without_copies(draft: Sidecar, reasons: NDArray[np.int8], name: str, store: Store) -> Sidecar:
    """Copy the shard's other samples into its place."""
    left_out = dict(compress(zip(draft.facts, reasons.tolist(), strict=True), reasons))
    kept = {key: parts for key, parts in draft.members.items() if key not in left_out}
    rejects = draft.rejects + [
        {"key": key, "source": draft.facts[key].source, "reason": REASONS[reason]} for key, reason in left_out.items()
    ]
    with store.open(draft_of(name)) as old, store.whole(final_of(name)) as new:
        write_tar(new, _copied(old, kept))
        changed = replace(draft, samples=len(kept), rejects=rejects, dropped=count(rejects))
        return read_back(new, changed, store.where(final_of(name)))


def _copied(tar: BufferedRandom, members: Members) -> Iterator[tuple[str, bytes]]:
    for key, parts in members.items():
        for extension, (offset, size) in parts.items():
            tar.seek(offset)
            yield f"{key}.{extension}", tar.read(size)


def _manifest(config: PrepareConfig, totals: _Totals, store: Store) -> Manifest:
    """Write statistics.json and, last, the manifest. Raises DataError if nothing was kept."""
    kept = sum(shard.samples for shards in totals.splits.values() for shard in shards)
    dropped = dict(sorted(totals.dropped.items()))
    if not kept:
        reasons = ", ".join(f"{reason} {number}" for reason, number in dropped.items())
        raise DataError(
            f"source {config.source}: every picture was kept out ({reasons}); see {store.where('rejects.jsonl')}"
        )
    summaries = {name: moments.summary() for name, moments in sorted(totals.statistics.items())}
    store.write("statistics.json", json.dumps(summaries, indent=1) + "\n")
    manifest = Manifest(
        concept=config.concept,
        resolution=config.resolution,
        codec=config.codec,
        config_digest=config.digest,
        identities={split: len(names) for split, names in totals.identities.items()},
        kept=kept,
        dropped=dropped,
        splits=totals.splits,
    )
    manifest.save(store)
    return manifest


def _remove_stale(plan: Plan, store: Store) -> None:
    """Delete shards that the plan no longer has, what interrupted runs left half written, and the work folder."""
    planned = {name for shard in plan.shards for name in (final_of(shard), path_of(final_of(shard)))}
    for folder in ("", *SPLITS):
        for name in store.names(folder):
            ours = folder and re.fullmatch(rf"{folder}/{folder}-\d{{6,}}\.(tar|json)", name)
            if PARTIAL.search(name) or (ours and name not in planned):
                store.delete(name)
    store.delete_folder("work")


def _number(identity: str) -> int:
    """Eight bytes for a name: enough to count different ones by."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")
