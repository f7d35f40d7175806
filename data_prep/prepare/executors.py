"""Run the workers: local processes, or Ray. On SLURM and Kubernetes the scheduler starts the workers itself."""

import os
import signal
from dataclasses import dataclass
from typing import Any, Protocol

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.interrupts import Interrupted
from data_prep.prepare.shard_writer import RetryPolicy
from data_prep.prepare.worker import run_worker
from data_prep.processes import POLL_SECONDS, PollCallback, ProcessDiedError, run_processes, starting_processes
from e4t_errors import ConfigError


class Executor(Protocol):
    """Runs all workers of a job."""

    def run(self, config: PrepareConfig, retry: RetryPolicy, on_poll: PollCallback) -> None:
        """Run all workers to completion. Raises what a worker raises."""


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Runs workers as processes on this machine."""

    workers: int = 0
    """Number of processes; 0 means one per available core."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; give 0 for one per core, or a positive number")

    def run(self, config: PrepareConfig, retry: RetryPolicy, on_poll: PollCallback) -> None:
        """Run one worker per process."""
        world_size = self.workers or available_cpus()
        if world_size == 1:
            run_worker(config, 0, 1, retry)
            return
        try:
            run_processes(run_worker, [(config, rank, world_size, retry) for rank in range(world_size)], on_poll)
        except ProcessDiedError as error:
            raise DataError(
                f"output {config.output}: {error}, possibly for lack of memory; rerun with fewer workers: finished "
                "shards are kept"
            ) from error


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs workers as tasks on a Ray cluster whose machines share the source and the output."""

    workers: int = 0
    """Number of tasks; 0 means one per CPU of the cluster."""
    address: str | None = None
    """Address of the cluster; None uses RAY_ADDRESS if it is set, and otherwise starts a local cluster."""

    def run(self, config: PrepareConfig, retry: RetryPolicy, on_poll: PollCallback) -> None:
        """Run one worker per task. A task whose machine is lost is restarted and keeps its finished shards."""
        try:
            import ray
        except ImportError as error:
            raise ConfigError("the Ray executor needs Ray: pip install 'e4t[ray]'") from error
        started_ray = not ray.is_initialized()
        if started_ray:
            try:
                with starting_processes():
                    ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
            except SystemExit as error:  # raised by Ray's own handler of SIGTERM, which it has only while it starts
                raise Interrupted(signal.SIGTERM) from error
        try:
            world_size = self.workers or int(ray.cluster_resources().get("CPU", 1))
            task = ray.remote(num_cpus=1, max_retries=3)(_run_task)
            ranks = [task.remote(config, rank, world_size, retry) for rank in range(world_size)]
            while ranks:
                done, ranks = ray.wait(ranks, timeout=POLL_SECONDS)
                on_poll()
                for rank in done:
                    _task_result(rank)
        finally:
            if started_ray:
                ray.shutdown()


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_task(config: PrepareConfig, rank: int, world_size: int, retry: RetryPolicy) -> None:
    """Run a worker. Ray's types do not support functions with optional arguments."""
    run_worker(config, rank, world_size, retry)


def _task_result(reference: Any) -> None:  # noqa: ANN401 - an ObjectRef of Ray, which is optional
    """Raise the original exception of a failed task."""
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
