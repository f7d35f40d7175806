"""How far a set is, from its folder alone: while it is made, by whomever, and afterwards."""

from collections import Counter
from dataclasses import dataclass

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.plan import Plan, load_plan
from data_prep.prepare.shard_writer import DRAFTS, draft_of, final_of, finished
from data_prep.prepare.splits import SPLITS
from data_prep.shards.manifest import Manifest
from data_prep.shards.shard_index import path_of
from data_prep.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a set stands."""

    shards: int
    """Planned; 0 before there is a plan."""
    done: int
    """Of these, made."""
    pictures: int
    """Planned."""
    looked_at: int
    """Of these, in the shards made: kept or kept out."""
    rate: float | None
    """Pictures a second over the time in which the shards were made; None before two are."""
    dropped: dict[str, int]
    """Kept out so far, by reason; copies of others are found at the end."""
    finished: bool
    """Whether the manifest is there."""


def status(config: PrepareConfig) -> Status:
    """Read the folder. Raises DataError if nothing was ever begun there."""
    store = Store(config.output)
    plan = load_plan(config, store)
    if plan is None:
        return _finished(config, store)
    sidecars = [
        found
        for name, digest in plan.shards.items()
        for tar in (draft_of(name), final_of(name))
        if (found := finished(store, tar, config.digest, digest))
    ]
    looked_at = sum(sidecar.samples + sum(sidecar.dropped.values()) for sidecar in sidecars)
    dropped: Counter[str] = Counter()
    for sidecar in sidecars:
        dropped.update(sidecar.dropped)
    rate = None
    if len(sidecars) > 1:
        seconds = max(s.started + s.seconds for s in sidecars) - min(s.started for s in sidecars)
        rate = looked_at / max(seconds, 1e-9)
    return Status(
        shards=len(plan.shards),
        done=len(sidecars),
        pictures=plan.pictures,
        looked_at=looked_at,
        rate=rate,
        dropped=dict(sorted(dropped.items())),
        finished=False,
    )


def progress(plan: Plan, store: Store) -> int:
    """Shards that lie there, by their names alone: cheap enough to be asked all the time."""
    there = {*store.names(DRAFTS), *(name for split in SPLITS for name in store.names(split))}
    return sum(bool({path_of(draft_of(name)), path_of(final_of(name))} & there) for name in plan.shards)


def _finished(config: PrepareConfig, store: Store) -> Status:
    if not store.exists("prepare.json"):
        raise DataError(f"output {config.output}: nothing was begun there; run `e4t prepare`")
    if not store.exists("manifest.json"):
        return Status(shards=0, done=0, pictures=0, looked_at=0, rate=None, dropped={}, finished=False)
    manifest = Manifest.load(config.output)
    shards = sum(len(found) for found in manifest.splits.values())
    pictures = manifest.kept + sum(manifest.dropped.values())
    return Status(
        shards=shards,
        done=shards,
        pictures=pictures,
        looked_at=pictures,
        rate=None,
        dropped=manifest.dropped,
        finished=True,
    )
