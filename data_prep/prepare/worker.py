"""One rank's share of the work: the same function under every executor."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.plan import Plan, check_same_config, load_plan, load_shard, make_plan, write_config
from data_prep.prepare.shard_writer import draft_path, final_path, load_if_current, write_draft
from data_prep.sources import open_source
from data_prep.storage.store import Store
from e4t import ConfigError


def run_worker(config: PrepareConfig, rank: int, world_size: int) -> None:
    """Make every ``world``-th shard from ``rank`` on that is not made yet.

    Where there is no plan it is made first; ranks that do so at the same time make the same one. Raises DataError if
    the source or the output fails, ConfigError if the output is of another configuration.
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} of {world_size}; ranks count from 0 to {world_size - 1}")
    configure_worker_process()
    store = Store(config.output)
    with output_errors(config):
        plan = load_plan(config, store) or make_new_plan(config, store)
        source = open_source(config)
        for name, digest in list(plan.shards.items())[rank::world_size]:
            if not any(
                load_if_current(store, tar, config.digest, digest) for tar in (draft_path(name), final_path(name))
            ):
                write_draft(load_shard(plan, name, store), source, config, store)


def make_new_plan(config: PrepareConfig, store: Store) -> Plan:
    """List the source anew, and note in the output what it is made with. A bad source leaves no file there."""
    check_same_config(config, store)
    plan = make_plan(config, store)
    write_config(config, store)
    return plan


@contextmanager
def output_errors(config: PrepareConfig) -> Iterator[None]:
    """Say in one line what is wrong with an output that cannot be written."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"output {config.output} cannot be written ({error.strerror or error}); make room or make it writable, or "
            "give another data.output, and rerun: finished shards are kept"
        ) from error


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers for mallopt."""


_TRIM_BYTES, _MMAP_BYTES = 2**28, 2**25
"""Up to 256 MiB stay with the process; buffers of up to 32 MiB, the most that glibc allows, come from them."""


def configure_worker_process() -> None:
    """One core, and memory that is used again for the next picture.

    Without the first, kornia-rs starts as many threads as there are cores, in each of as many processes. Without the
    second, glibc hands a picture's buffers back and the kernel clears as many pages for the next: 2,000 page faults and
    5 of 23 CPU ms a picture. A machine of another C library goes without.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
            mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
