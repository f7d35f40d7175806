"""DeepSpeed gets the settings of the recipe."""

import pytest
from deepspeed.runtime.config import DeepSpeedConfig

from e4t_errors import ConfigError
from pipelines.config.pretraining import PretrainConfig
from pipelines.pretraining.deepspeed_engine import deepspeed_config


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_zero_stage_is_that_of_the_recipe(stage: int) -> None:
    assert deepspeed_config(PretrainConfig(zero_stage=stage), 1)["zero_optimization"]["stage"] == stage


def test_the_global_batch_is_split_over_ranks_and_gradient_accumulation_steps() -> None:
    config = deepspeed_config(PretrainConfig(global_batch_size=24, micro_batch_size=3), 3)
    assert config["train_batch_size"] == 24
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 4


def test_a_global_batch_that_the_ranks_cannot_share_equally_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a multiple of 5 devices"):
        deepspeed_config(PretrainConfig(global_batch_size=8), 5)


@pytest.mark.parametrize(("precision", "bf16", "fp16"), [("bf16", 1, 0), ("fp16", 0, 1), ("fp32", 0, 0)])
@pytest.mark.parametrize("offload", [False, True])
def test_deepspeed_parses_the_configuration_as_intended(precision: str, bf16: bool, fp16: bool, offload: bool) -> None:
    recipe = PretrainConfig(precision=precision, offload_optimizer=offload, max_grad_norm=0.5, global_batch_size=6)
    read = DeepSpeedConfig(deepspeed_config(recipe, 1))
    assert (read.bfloat16_config.enabled, read.float16_config.enabled) == (bf16, fp16)
    assert (read.zero_config.offload_optimizer is not None) == offload
    assert read.gradient_clipping == 0.5
    assert (read.train_batch_size, read.gradient_accumulation_steps) == (6, 1)
