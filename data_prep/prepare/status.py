"""Report the progress of a dataset from the files in its output folder."""

from dataclasses import dataclass

from data_prep.config import MANIFEST_NAME, PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.plan import DATASET_CONFIG_NAME, OLD_DATASET_CONFIG_NAME, Plan, add_counts, final_path, load_plan
from data_prep.prepare.shard_writer import DRAFTS_DIR, count_reasons, draft_path, find_finished
from data_prep.prepare.splits import SPLITS
from data_prep.shards.manifest import Manifest
from data_prep.shards.shard_index import index_path
from data_prep.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Status:
    """Progress of a dataset."""

    num_shards: int
    """Number of planned shards; 0 before there is a plan."""
    shards_done: int
    """Number of finished shards."""
    num_images: int
    """Number of planned images."""
    processed: int
    """Number of images in finished shards, kept or rejected."""
    rate: float | None
    """Images per second while the shards were made; None before two shards are finished."""
    reject_counts: dict[str, int]
    """Number of images rejected so far by reason; duplicates are only found at the end."""
    retryable_counts: dict[str, int]
    """Number of rejected images by reason, of those that the next run reads again."""
    ignored_counts: dict[str, int]
    """Number of entries of the source by reason that are not images to be read."""
    captions_missing: int
    """Number of images so far for which the configured caption was not found."""
    finished: bool
    """Whether the manifest exists."""


def status(config: PrepareConfig) -> Status:
    """Read the progress from the output folder. Raises DataError if no run has started there."""
    store = Store(config.output)
    plan = load_plan(config, store)
    if plan is None:
        return _finished_status(config, store)
    indexes = [
        finished.index
        for name, digest in plan.shards.items()
        if (finished := find_finished(store, name, config.digest, digest))
    ]
    rejects = [reject for index in indexes for reject in index.rejects]
    processed = sum(index.samples for index in indexes) + len(rejects)
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
        reject_counts=add_counts(plan.reject_counts, count_reasons(rejects)),
        retryable_counts=count_reasons(reject for reject in rejects if reject.retryable),
        ignored_counts=plan.ignored_counts,
        captions_missing=sum(index.captions_missing for index in indexes),
        finished=False,
    )


def shards_done(plan: Plan, store: Store) -> int:
    """Count finished shards by file name only, which is cheap enough to poll."""
    existing = {*store.listdir(DRAFTS_DIR), *(name for split in SPLITS for name in store.listdir(split))}
    return sum(bool({index_path(draft_path(name)), index_path(final_path(name))} & existing) for name in plan.shards)


def _finished_status(config: PrepareConfig, store: Store) -> Status:
    if not (store.exists(DATASET_CONFIG_NAME) or store.exists(OLD_DATASET_CONFIG_NAME)):
        raise DataError(f"output {config.output}: no run has started there; run `e4t prepare`")
    if not store.exists(MANIFEST_NAME):
        return Status(
            num_shards=0,
            shards_done=0,
            num_images=0,
            processed=0,
            rate=None,
            reject_counts={},
            retryable_counts={},
            ignored_counts={},
            captions_missing=0,
            finished=False,
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
        retryable_counts=manifest.retryable_counts,
        ignored_counts=manifest.ignored_counts,
        captions_missing=manifest.captions_missing,
        finished=True,
    )
