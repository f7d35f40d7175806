"""Prepare a dataset: plan the shards, run the workers, merge the result."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from data_prep.config import PrepareConfig, ProgressCallback
from data_prep.errors import DataError
from data_prep.prepare.executors import Executor, LocalExecutor
from data_prep.prepare.merge import merge
from data_prep.prepare.ownership import check_output, output_lock
from data_prep.prepare.plan import Plan, load_plan
from data_prep.prepare.shard_writer import NO_EXTRA_RETRIES, RetryPolicy
from data_prep.prepare.status import shards_done
from data_prep.prepare.worker import make_new_plan, output_errors, run_worker
from data_prep.shards.manifest import Manifest
from data_prep.storage.store import Store


def prepare(
    config: PrepareConfig,
    executor: Executor | None = None,
    on_progress: ProgressCallback | None = None,
    *,
    retry: RetryPolicy = NO_EXTRA_RETRIES,
) -> Manifest:
    """Create the dataset, or the missing part of it, and return its manifest.

    The source is listed again, so that changed images are noticed. The same images and configuration give the same
    shards, whatever the executor and its number of workers, and however often the run was interrupted. Images whose
    reads failed in an earlier run are read again as ``retry`` says. ``on_progress`` is called with the numbers of
    finished and planned shards. Raises DataError for an unusable source or output and if too many reads failed,
    ConfigError for an output that was created with another configuration or holds files of others.
    """
    with _locked_output(config, exclusive=True) as store:
        plan = make_new_plan(config, store)
        progress = _Progress(plan, store, on_progress)
        (executor or LocalExecutor()).run(config, retry, progress)
        progress()
        return merge(config, plan, store)


def plan_dataset(config: PrepareConfig) -> Plan:
    """List the source and plan the shards, for workers that are started separately."""
    with _locked_output(config, exclusive=True) as store:
        return make_new_plan(config, store)


def work_on_dataset(
    config: PrepareConfig, rank: int, world_size: int, *, retry: RetryPolicy = NO_EXTRA_RETRIES
) -> None:
    """Run one of several workers that are started separately; see ``run_worker``."""
    with _locked_output(config, exclusive=False):
        run_worker(config, rank, world_size, retry)


def merge_dataset(config: PrepareConfig, on_progress: ProgressCallback | None = None) -> Manifest:
    """Merge the shards of separately started workers. Raises DataError if the plan or a shard is missing."""
    with _locked_output(config, exclusive=True) as store:
        plan = load_plan(config, store)
        if plan is None:
            raise DataError(f"output {config.output} has no plan of this configuration; run all workers first")
        return merge(config, plan, store, on_progress)


@contextmanager
def _locked_output(config: PrepareConfig, *, exclusive: bool) -> Iterator[Store]:
    """Check the output, lock it and convert the errors of writing to it; see ``check_output`` and ``output_lock``."""
    store = Store(config.output)
    with output_errors(config):
        check_output(config, store)
        with output_lock(store, exclusive=exclusive):
            yield store


@dataclass(frozen=True)
class _Progress:
    """Poll callback that reports the number of finished shards."""

    plan: Plan
    store: Store
    on_progress: ProgressCallback | None

    def __call__(self) -> None:
        if self.on_progress:
            self.on_progress(shards_done(self.plan, self.store), len(self.plan.shards))
