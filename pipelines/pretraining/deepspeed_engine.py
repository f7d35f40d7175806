"""DeepSpeed around the trained modules, through Accelerate; the frozen ones stay outside."""

import logging
import os
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.utils import InitProcessGroupKwargs, set_seed
from deepspeed import DeepSpeedEngine
from torch import distributed as dist

from e4t import ConfigError
from pipelines.config.pretraining import ZERO_BUCKET_SIZE, PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.pretraining.model import DomainModel
from pipelines.pretraining.optimizer import SkipStepAdamW
from pipelines.runtime.process_group import ProcessGroup


def init_distributed(recipe: Recipe) -> ProcessGroup:
    """Join the processes that torchrun's variables describe, with DeepSpeed on: gloo on CPUs, NCCL on GPUs.

    Raises RunError if the rendezvous cannot be reached, or if anything but DeepSpeed would train.
    """
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"  # without it Accelerate ignores the plugin on a CPU, in silence
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
        False  # compiled at the first start on a CPU; gloo needs no compiler
    )
    deepspeed.utils.logger.setLevel(logging.ERROR)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    plugin = DeepSpeedPlugin(hf_ds_config=deepspeed_config(recipe.pretrain, world_size))
    handlers = [] if torch.cuda.is_available() else [InitProcessGroupKwargs(backend="gloo")]
    try:
        accelerator = Accelerator(deepspeed_plugin=plugin, kwargs_handlers=handlers)
    except torch.distributed.DistError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"the ranks cannot meet at {address} ({reason}); free that port or set MASTER_PORT to another"
        ) from error
    set_seed(recipe.seed)
    if recipe.pretrain.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    gloo_group = dist.new_group(backend="gloo") if accelerator.num_processes > 1 else None
    return ProcessGroup(accelerator, accelerator.process_index, accelerator.num_processes, gloo_group)


def deepspeed_config(config: PretrainConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a recipe on ``world`` devices."""
    micro_batch_size, gradient_accumulation_steps = config.micro_batch_split(world_size)
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": ZERO_BUCKET_SIZE,
        "allgather_bucket_size": ZERO_BUCKET_SIZE,
    }
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_batch_size": config.global_batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": zero,
        # The optimizer looks at the gradients itself, on the device; DeepSpeed would stop the host for it.
        "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": False},
        "fp16": {"enabled": config.precision == "fp16"},
        "zero_allow_untested_optimizer": True,
        # PyTorch's fused AdamW steps on the CPU as well, and nothing has to be compiled for it.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def build_engine(
    model: DomainModel, config: PretrainConfig, process_group: ProcessGroup
) -> tuple[DeepSpeedEngine, SkipStepAdamW]:
    """The model in a DeepSpeed engine, and the AdamW that it steps.

    Raises ConfigError if the device cannot do what the recipe asks, RunError if Accelerate gives anything else.
    """
    parts = zip((model.encoder, model.offsets), config.learning_rates, strict=True)
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in parts]
    optimizer = SkipStepAdamW([group for group in groups if group["params"]], ema_decay=config.ema_decay)
    try:
        engine, _ = process_group.accelerator.prepare(model, optimizer)
    except ValueError as error:
        if "not supported on your device" not in str(error):
            raise
        raise ConfigError(f"this device cannot do pretrain.precision {config.precision}; give bf16 or no") from error
    if not isinstance(engine, DeepSpeedEngine):
        raise RunError(
            f"expected a DeepSpeedEngine, Accelerate made a {type(engine).__name__}; "
            "unset the ACCELERATE_* variables that turn DeepSpeed off"
        )
    optimizer.init_state()
    if config.zero_stage in (1, 2):  # the others step all groups at once, or look at all gradients themselves
        # The engine's public copy of it is of the step before.
        optimizer.global_norm = lambda: engine.optimizer._global_grad_norm
    return engine, optimizer
