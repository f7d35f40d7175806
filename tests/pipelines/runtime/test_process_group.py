"""The ranks of a process group communicate over gloo."""

from typing import Any

import pytest
from torch import distributed as dist

from pipelines.runtime.process_group import ProcessGroup
from tests.warm_process import run_ranks


def collectives() -> list[Any]:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    group = ProcessGroup(None, rank, 3, dist.new_group(backend="gloo"))
    results = [
        group.all_reduce_max(10 * (rank == 1)),
        group.all_gather_object([rank / 3, 2.0]),
        group.broadcast_from_rank_0(f"from rank {rank}"),
    ]
    group.barrier()
    return results


@pytest.mark.distributed
def test_collectives_give_the_same_result_on_every_rank() -> None:
    results = run_ranks(collectives, 3)
    assert results == [[10, [[0.0, 2.0], [1 / 3, 2.0], [2 / 3, 2.0]], "from rank 0"]] * 3
