"""How far a set is, from its folder alone: while it is made, by whomever, and afterwards."""

from collections import Counter
from dataclasses import dataclass

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.plan import DATASET_CONFIG_NAME, OLD_DATASET_CONFIG_NAME, Plan, load_plan
from data_prep.prepare.shard_writer import DRAFTS_DIR, draft_path, final_path, load_if_current
from data_prep.prepare.splits import SPLITS
from data_prep.shards.manifest import MANIFEST_NAME, Manifest
from data_prep.shards.shard_index import index_path
from data_prep.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a set stands."""

    num_shards: int
    """Planned; 0 before there is a plan."""
    shards_done: int
    """Of these, made."""
    num_images: int
    """Planned."""
    processed: int
    """Of these, in the shards made: kept or kept out."""
    rate: float | None
    """Pictures a second over the time in which the shards were made; None before two are."""
    reject_counts: dict[str, int]
    """Kept out so far, by reason; copies of others are found at the end."""
    finished: bool
    """Whether the manifest is there."""


def status(config: PrepareConfig) -> Status:
    """Read the folder. Raises DataError if nothing was ever begun there."""
    store = Store(config.output)
    plan = load_plan(config, store)
    if plan is None:
        return _finished_status(config, store)
    indexes = [
        found
        for name, digest in plan.shards.items()
        for tar in (draft_path(name), final_path(name))
        if (found := load_if_current(store, tar, config.digest, digest))
    ]
    processed = sum(sidecar.samples + sum(sidecar.reject_counts.values()) for sidecar in indexes)
    reject_counts: Counter[str] = Counter()
    for index in indexes:
        reject_counts.update(index.reject_counts)
    rate = None
    if len(indexes) > 1:
        seconds = max(s.started + s.seconds for s in indexes) - min(s.started for s in indexes)
        rate = processed / max(seconds, 1e-9)
    return Status(
        num_shards=len(plan.shards),
        shards_done=len(indexes),
        num_images=plan.num_images,
        processed=processed,
        rate=rate,
        reject_counts=dict(sorted(reject_counts.items())),
        finished=False,
    )


def shards_done(plan: Plan, store: Store) -> int:
    """Shards that lie there, by their names alone: cheap enough to be asked all the time."""
    existing = {*store.listdir(DRAFTS_DIR), *(name for split in SPLITS for name in store.listdir(split))}
    return sum(bool({index_path(draft_path(name)), index_path(final_path(name))} & existing) for name in plan.shards)


def _finished_status(config: PrepareConfig, store: Store) -> Status:
    if not (store.exists(DATASET_CONFIG_NAME) or store.exists(OLD_DATASET_CONFIG_NAME)):
        raise DataError(f"output {config.output}: nothing was begun there; run `e4t prepare`")
    if not store.exists(MANIFEST_NAME):
        return Status(
            num_shards=0, shards_done=0, num_images=0, processed=0, rate=None, reject_counts={}, finished=False
        )
    manifest = Manifest.load(config.output)
    num_shards = sum(len(split_shards) for split_shards in manifest.splits.values())
    num_images = manifest.kept + sum(manifest.reject_counts.values())
    return Status(
        num_shards=num_shards,
        shards_done=num_shards,
        num_images=num_images,
        processed=num_images,
        rate=None,
        reject_counts=manifest.reject_counts,
        finished=True,
    )
