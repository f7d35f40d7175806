"""The DeepSpeed engine, created through Accelerate. Only the trained modules are in it."""

import logging
import os
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.utils import InitProcessGroupKwargs, set_seed
from deepspeed import DeepSpeedEngine
from torch import distributed as dist

from e4t_errors import ConfigError
from pipelines.config.pretraining import ZERO_BUCKET_SIZE, PretrainConfig
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.pretraining.model import DomainModel
from pipelines.pretraining.optimizer import SkipStepAdamW
from pipelines.runtime.process_group import ProcessGroup


def init_distributed(recipe: Recipe) -> ProcessGroup:
    """Join the process group that torchrun's environment variables describe: gloo on CPUs, NCCL on GPUs.

    Also seeds the random generators. Raises RunError if the rendezvous address cannot be reached.
    """
    # Without this variable Accelerate silently ignores the DeepSpeed plugin on a CPU.
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    # DeepSpeed would compile this extension at its first start on a CPU; gloo needs no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
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
            f"the ranks cannot rendezvous at {address} ({reason}); free that port, or set MASTER_PORT to another one"
        ) from error
    set_seed(recipe.seed)
    if recipe.pretrain.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    gloo_group = dist.new_group(backend="gloo") if accelerator.num_processes > 1 else None
    return ProcessGroup(accelerator, accelerator.process_index, accelerator.num_processes, gloo_group)


def deepspeed_config(config: PretrainConfig, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration for training on ``world_size`` devices."""
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
        # SkipStepAdamW checks the gradients on the device, so DeepSpeed need not check them for overflow on the host.
        # The host still waits once per step where DeepSpeed clips gradients: it reads the norm to see if it is finite.
        "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": False},
        "fp16": {"enabled": config.precision == "fp16"},
        "zero_allow_untested_optimizer": True,
        # With an offloaded optimizer, use PyTorch's fused AdamW on the CPU; DeepSpeed's would have to be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def build_engine(
    model: DomainModel, config: PretrainConfig, process_group: ProcessGroup
) -> tuple[DeepSpeedEngine, SkipStepAdamW]:
    """Wrap the model in a DeepSpeed engine, and return it with the optimizer that the engine steps.

    Raises ConfigError if the device does not support the precision of the recipe, RunError if Accelerate creates
    anything but a DeepSpeed engine.
    """
    parts = zip((model.encoder, model.offsets), config.learning_rates, strict=True)
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in parts]
    optimizer = SkipStepAdamW([group for group in groups if group["params"]], ema_decay=config.ema_decay)
    try:
        engine, _ = process_group.accelerator.prepare(model, optimizer)
    except ValueError as error:
        if "not supported on your device" not in str(error):
            raise
        raise ConfigError(
            f"this device does not support pretrain.precision: {config.precision}; use bf16 or fp32"
        ) from error
    if not isinstance(engine, DeepSpeedEngine):
        raise RunError(
            f"Accelerate created a {type(engine).__name__} instead of a DeepSpeedEngine; unset the ACCELERATE_* "
            "environment variables that turn DeepSpeed off"
        )
    optimizer.init_state()
    if config.zero_stage in (1, 2):
        # These stages step one group after the other. Stage 0 steps all groups at once, and stage 3 checks all
        # gradients itself. The engine's public attribute still holds the norm of the step before.
        optimizer.global_norm = lambda: engine.optimizer._global_grad_norm
    return engine, optimizer
