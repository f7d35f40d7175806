"""The ranks of a process group communicate over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RANK_CODE = """
import json, os, sys
from torch import distributed as dist
from pipelines.runtime.process_group import ProcessGroup

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=3)
group = ProcessGroup(None, rank, 3, dist.new_group(backend="gloo"))
results = [
    group.all_reduce_max(10 * (rank == 1)),
    group.all_gather_object([rank / 3, 2.0]),
    group.broadcast_from_rank_0(f"from rank {rank}"),
]
group.barrier()
print(json.dumps(results))
os._exit(sys.stdout.flush() or 0)
"""


@pytest.mark.distributed
def test_collectives_give_the_same_result_on_every_rank(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    ranks = [
        subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", RANK_CODE, str(rank), str(tmp_path / "rendezvous")],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(3)
    ]  # fmt: skip
    results = [json.loads(rank.communicate(timeout=120)[0].splitlines()[-1]) for rank in ranks]
    assert results == [[10, [[0.0, 2.0], [1 / 3, 2.0], [2 / 3, 2.0]], "from rank 0"]] * 3
