"""Where the ranks' work runs: processes here, or Ray. On SLURM and Kubernetes the scheduler starts the ranks itself."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.worker import run_worker
from e4t import ConfigError

PollCallback = Callable[[], None]
"""Called again and again while the work runs."""
POLL_SECONDS = 0.5


class Executor(Protocol):
    """Runs every rank of a job to its end."""

    def run(self, config: PrepareConfig, on_poll: PollCallback) -> None:
        """Do all the work. Raises what a rank raises."""


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Processes on this machine."""

    workers: int = 0
    """How many; 0 means one a core."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; give 0 for one a core, or a number")

    def run(self, config: PrepareConfig, on_poll: PollCallback) -> None:
        """One rank a process."""
        world_size = self.workers or available_cpus()
        if world_size == 1:
            run_worker(config, 0, 1)
            return
        try:
            with ProcessPoolExecutor(world_size, mp_context=multiprocessing.get_context("spawn")) as pool:
                ranks = {pool.submit(run_worker, config, rank, world_size) for rank in range(world_size)}
                while ranks:
                    done, ranks = wait(ranks, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                    on_poll()
                    for rank in done:
                        rank.result()
        except BrokenProcessPool as error:
            raise DataError(
                f"output {config.output}: a worker died, likely for want of memory; give fewer workers and rerun: "
                "finished shards are kept"
            ) from error


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Tasks on a Ray cluster that shares the source and the output."""

    workers: int = 0
    """How many tasks; 0 means one a CPU of the cluster."""
    address: str | None = None
    """Of the cluster; none starts one here (or takes the one that RAY_ADDRESS names)."""

    def run(self, config: PrepareConfig, on_poll: PollCallback) -> None:
        """One rank a task; a task that its machine loses is started again, and finds what it had finished."""
        try:
            import ray
        except ImportError as error:
            raise ConfigError("the Ray executor needs Ray: pip install 'e4t[ray]'") from error
        started_ray = not ray.is_initialized()
        if started_ray:
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        try:
            world_size = self.workers or int(ray.cluster_resources().get("CPU", 1))
            task = ray.remote(num_cpus=1, max_retries=3)(run_worker)
            ranks = [task.remote(config, rank, world_size) for rank in range(world_size)]
            while ranks:
                done, ranks = ray.wait(ranks, timeout=POLL_SECONDS)
                on_poll()
                for rank in done:
                    _task_result(rank)
        finally:
            if started_ray:
                ray.shutdown()


def available_cpus() -> int:
    """Of this machine, as far as a scheduler has given them to us."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _task_result(reference: Any) -> None:  # noqa: ANN401 - Ray's own reference
    """Raise what the task raised, in its own words."""
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
