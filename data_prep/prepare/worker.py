"""The worker: process one rank's share of the shards. Every executor runs the same function."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.plan import Plan, check_same_config, load_plan, load_shard, make_plan, write_config
from data_prep.prepare.shard_writer import NO_EXTRA_RETRIES, RetryPolicy, find_finished, write_draft
from data_prep.sources import open_source
from data_prep.storage.store import Store
from e4t_errors import ConfigError


def run_worker(config: PrepareConfig, rank: int, world_size: int, retry: RetryPolicy = NO_EXTRA_RETRIES) -> None:
    """Create the missing shards among every ``world_size``-th shard, starting at shard ``rank``.

    Images of finished shards whose reads failed are read again as ``retry`` says. Without a plan, it is made first;
    workers that do so at the same time make the same plan. Raises DataError if the source or the output fails,
    ConfigError if the output belongs to another configuration.
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} is not valid for {world_size} workers; give 0 to {world_size - 1}")
    configure_worker_process()
    store = Store(config.output)
    with output_errors(config):
        plan = load_plan(config, store) or make_new_plan(config, store)
        source = open_source(config)
        for name, digest in list(plan.shards.items())[rank::world_size]:
            finished = find_finished(store, name, config.digest, digest)
            if finished is None or any(map(retry.applies_to, finished.index.rejects)):
                write_draft(load_shard(plan, name, store), source, config, store, finished=finished, retry=retry)


def make_new_plan(config: PrepareConfig, store: Store) -> Plan:
    """List the source, plan the shards and record the configuration. A bad source leaves no files in the output."""
    check_same_config(config, store)
    plan = make_plan(config, store)
    write_config(config, store)
    return plan


@contextmanager
def output_errors(config: PrepareConfig) -> Iterator[None]:
    """Convert OSErrors into a DataError that says in one line why the output cannot be written."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            f"output {config.output}: {error.filename or error} has disappeared; if another `e4t prepare` works there, "
            "wait until it ends, and rerun"
        ) from error
    except OSError as error:
        raise DataError(
            f"output {config.output} cannot be written ({error.strerror or error}); free space, make it writable or "
            "give another data.output, and rerun: finished shards are kept"
        ) from error


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameter numbers of glibc's mallopt."""
_TRIM_BYTES, _MMAP_BYTES = 2**28, 2**25
"""Keep up to 256 MiB of freed memory, and serve buffers of up to 32 MiB (glibc's maximum) from it."""


def configure_worker_process() -> None:
    """Limit the process to one thread, and let glibc reuse the memory of one image for the next.

    Otherwise kornia-rs starts as many threads as there are cores in each process, and glibc returns an image's buffers
    to the kernel, which clears as many pages for the next image: 2,000 page faults and 5 of 23 ms CPU time per image.
    The memory settings apply to glibc only.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
            mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
