"""Prepare a dataset: plan the shards, run the workers, merge the result."""

from dataclasses import dataclass

from data_prep.config import PrepareConfig, ProgressCallback
from data_prep.errors import DataError
from data_prep.prepare.executors import Executor, LocalExecutor
from data_prep.prepare.merge import merge
from data_prep.prepare.plan import Plan, load_plan
from data_prep.prepare.status import shards_done
from data_prep.prepare.worker import make_new_plan, output_errors
from data_prep.shards.manifest import Manifest
from data_prep.storage.store import Store


def prepare(
    config: PrepareConfig, executor: Executor | None = None, on_progress: ProgressCallback | None = None
) -> Manifest:
    """Create the dataset, or the missing part of it, and return its manifest.

    The source is listed again, so that changed images are noticed. The same images and configuration give the same
    shards, whatever the executor and its number of workers, and however often the run was interrupted. ``on_progress``
    is called with the numbers of finished and planned shards. Raises DataError for an unusable source or output,
    ConfigError for an output that was created with another configuration.
    """
    store = Store(config.output)
    with output_errors(config):
        plan = make_new_plan(config, store)
        progress = _Progress(plan, store, on_progress)
        (executor or LocalExecutor()).run(config, progress)
        progress()
        return merge(config, plan, store)


def plan_dataset(config: PrepareConfig) -> Plan:
    """List the source and plan the shards, for workers that are started separately."""
    with output_errors(config):
        return make_new_plan(config, Store(config.output))


def merge_dataset(config: PrepareConfig, on_progress: ProgressCallback | None = None) -> Manifest:
    """Merge the shards of separately started workers. Raises DataError if the plan or a shard is missing."""
    store = Store(config.output)
    with output_errors(config):
        plan = load_plan(config, store)
        if plan is None:
            raise DataError(f"output {config.output} has no plan of this configuration; run all workers first")
        return merge(config, plan, store, on_progress)


@dataclass(frozen=True)
class _Progress:
    """Poll callback that reports the number of finished shards."""

    plan: Plan
    store: Store
    on_progress: ProgressCallback | None

    def __call__(self) -> None:
        if self.on_progress:
            self.on_progress(shards_done(self.plan, self.store), len(self.plan.shards))
