"""Pictures to shards: plan, work, merge."""

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
    """Make the set, or what is missing of it, and return its manifest.

    The source is listed anew, so that changed pictures are noticed; the same pictures and configuration give the same
    shards whatever the executor and its size, and however often it was interrupted. Raises DataError for a bad source
    or target, ConfigError for an output that was made with another configuration.
    """
    store = Store(config.output)
    with output_errors(config):
        plan = make_new_plan(config, store)
        progress = _Progress(plan, store, on_progress)
        (executor or LocalExecutor()).run(config, progress)
        progress()
        return merge(config, plan, store)


def plan_dataset(config: PrepareConfig) -> Plan:
    """List the source anew and plan the shards, for ranks that will be started elsewhere."""
    with output_errors(config):
        return make_new_plan(config, Store(config.output))


def merge_dataset(config: PrepareConfig, on_progress: ProgressCallback | None = None) -> Manifest:
    """Join what ranks made elsewhere. Raises DataError if there is no plan or some shard is missing."""
    store = Store(config.output)
    with output_errors(config):
        plan = load_plan(config, store)
        if plan is None:
            raise DataError(
                f"output {config.output} has no plan of this configuration; run the work of every rank first"
            )
        return merge(config, plan, store, on_progress)


@dataclass(frozen=True)
class _Progress:
    """Tells how many shards there are by now."""

    plan: Plan
    store: Store
    on_progress: ProgressCallback | None

    def __call__(self) -> None:
        if self.on_progress:
            self.on_progress(shards_done(self.plan, self.store), len(self.plan.shards))
