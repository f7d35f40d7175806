"""Run the workers: local processes, or Ray. On SLURM and Kubernetes the scheduler starts the workers itself."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.shard_writer import RetryPolicy
from data_prep.prepare.worker import run_worker
from e4t_errors import ConfigError

PollCallback = Callable[[], None]
"""Called repeatedly while the workers run."""
POLL_SECONDS = 0.5
"""Interval between two calls of the callback."""


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
        # Not a process pool: a killed worker can leave locks of its shared queues taken, on which the pool waits.
        context = multiprocessing.get_context("spawn")
        running: dict[Connection, BaseProcess] = {}
        try:
            for rank in range(world_size):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_worker_main, args=(config, rank, world_size, retry, sender))
                process.start()
                sender.close()
                running[receiver] = process
            errors = list(_worker_errors(running, config, on_poll))
        except BaseException:
            for worker in running.values():
                worker.kill()
            raise
        if errors:
            raise errors[0]


def _worker_main(config: PrepareConfig, rank: int, world_size: int, retry: RetryPolicy, sender: Connection) -> None:
    """Run a worker, and send the exception that it raised, or None."""
    try:
        run_worker(config, rank, world_size, retry)
        sender.send(None)
    except Exception as error:
        sender.send(error)


def _worker_errors(
    running: dict[Connection, BaseProcess], config: PrepareConfig, on_poll: PollCallback
) -> Iterator[Exception]:
    """Wait for all workers and yield what they raised. Raises DataError if one has died."""
    waiting = set(running)
    while waiting:
        ready = wait(list(waiting), timeout=POLL_SECONDS)
        for receiver in [each for each in waiting if each in ready]:
            try:
                error: Exception | None = receiver.recv()
            except (EOFError, OSError):  # also in the middle of a message
                raise DataError(
                    f"output {config.output}: a worker process died, possibly for lack of memory; rerun with "
                    "fewer workers: finished shards are kept"
                ) from None
            waiting.discard(receiver)
            running[receiver].join()
            if error is not None:
                yield error
        on_poll()


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
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
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
