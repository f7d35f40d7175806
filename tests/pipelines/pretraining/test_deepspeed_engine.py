"""What DeepSpeed is told, and what ranks ask each other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from deepspeed.runtime.config import DeepSpeedConfig

from e4t import ConfigError
from pipelines.config.pretraining import PretrainConfig
from pipelines.pretraining.deepspeed_engine import deepspeed_config

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_stage_is_the_recipes(stage: int) -> None:
    assert deepspeed_config(PretrainConfig(zero_stage=stage), 1)["zero_optimization"]["stage"] == stage


def test_the_batch_is_shared_and_accumulated() -> None:
    config = deepspeed_config(PretrainConfig(global_batch_size=24, micro_batch_size=3), 3)
    assert config["train_batch_size"] == 24
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 4


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be shared by 5 devices"):
        deepspeed_config(PretrainConfig(global_batch_size=8), 5)


@pytest.mark.parametrize(("precision", "bf16", "fp16"), [("bf16", 1, 0), ("fp16", 0, 1), ("fp32", 0, 0)])
@pytest.mark.parametrize("offload", [False, True])
def test_deepspeed_reads_it_as_it_is_meant(precision: str, bf16: bool, fp16: bool, offload: bool) -> None:
    recipe = PretrainConfig(precision=precision, offload_optimizer=offload, max_grad_norm=0.5, global_batch_size=6)
    read = DeepSpeedConfig(deepspeed_config(recipe, 1))
    assert (read.bfloat16_config.enabled, read.float16_config.enabled) == (bf16, fp16)
    assert (read.zero_config.offload_optimizer is not None) == offload
    assert read.gradient_clipping == 0.5
    assert (read.train_batch_size, read.gradient_accumulation_steps) == (6, 1)


ASK = """
import json, os, sys
from torch import distributed as dist
from pipelines.pretraining.deepspeed_engine import Cluster

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=3)
cluster = Cluster(None, rank, 3, dist.new_group(backend="gloo"))
answers = [cluster.largest(10 * (rank == 1)), cluster.gather([rank / 3, 2.0]), cluster.rank_0_says(f"rank {rank} says")]
cluster.wait()
print(json.dumps(answers))
os._exit(sys.stdout.flush() or 0)
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_all_ranks_hear_the_same(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    ranks = [
        subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", ASK, str(rank), str(tmp_path / "meeting")],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(3)
    ]  # fmt: skip
    heard = [json.loads(rank.communicate(timeout=120)[0].splitlines()[-1]) for rank in ranks]
    assert heard == [[10, [[0.0, 2.0], [1 / 3, 2.0], [2 / 3, 2.0]], "rank 0 says"]] * 3
