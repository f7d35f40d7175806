"""DeepSpeed around the trained modules, through Accelerate; the frozen ones stay outside."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.utils import InitProcessGroupKwargs, set_seed
from deepspeed import DeepSpeedEngine
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import save_file
from torch import Tensor, nn

from encoder.backbone import Backbone
from encoder.conditioning import Conditioning, Prompts
from encoder.domain_encoder import DomainEncoder
from encoder.features import Encoded
from encoder.objective import Draw, Losses, domain_tuning_loss
from encoder.weight_offsets import OffsetPredictor, save_offsets, set_offsets
from pipelines.config import PretrainConfig, Recipe
from pipelines.errors import RunError


class DomainModel(nn.Module):
    """What pre-training trains. The backbone stays outside of the module tree: no engine or checkpoint sees it."""

    def __init__(
        self, encoder: DomainEncoder, offsets: OffsetPredictor, backbone: Backbone, conditioning: Conditioning
    ) -> None:
        super().__init__()
        self.encoder, self.offsets = encoder, offsets
        self._frozen = (backbone, conditioning)

    def forward(self, pictures: Encoded, prompts: Prompts, draw: Draw, regulariser: float) -> Losses:
        """Losses of a micro-batch; the offsets are evaluated once, for both passes."""
        backbone, conditioning = self._frozen
        set_offsets(backbone.unet, self.offsets())
        posterior = pictures.posterior
        latents = posterior.mean + posterior.std * draw.posterior.to(posterior.mean)
        return domain_tuning_loss(
            backbone,
            self.encoder,
            conditioning,
            latents=latents,
            class_tokens=pictures.class_tokens,
            prompts=prompts,
            noise=draw.noise.to(latents),
            timesteps=draw.timesteps.to(latents.device),
            regulariser=regulariser,
        )


@dataclass(frozen=True)
class Cluster:
    """This process's place."""

    accelerator: Accelerator
    rank: int
    world: int

    def wait(self) -> None:
        """Until every rank is here."""
        self.accelerator.wait_for_everyone()


def join_cluster(recipe: Recipe) -> Cluster:
    """Join the processes that torchrun's variables describe, with DeepSpeed on: gloo on CPUs, NCCL on GPUs.

    Raises RunError if the rendezvous cannot be reached, or if anything but DeepSpeed would train.
    """
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"  # without it Accelerate ignores the plugin on a CPU, in silence
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
        False  # compiled at the first start on a CPU; gloo needs no compiler
    )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    plugin = DeepSpeedPlugin(hf_ds_config=deepspeed_config(recipe.pretrain, world))
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
    return Cluster(accelerator, accelerator.process_index, accelerator.num_processes)


def deepspeed_config(config: PretrainConfig, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a recipe on ``world`` devices."""
    return {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation(world),
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {"stage": config.zero_stage},
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def build_engine(model: DomainModel, config: PretrainConfig, cluster: Cluster) -> DeepSpeedEngine:
    """The model in a DeepSpeed engine with AdamW. Raises RunError if Accelerate gives anything else."""
    parts = (model.encoder, model.offsets)
    groups = [
        {"params": list(p.parameters()), "lr": rate} for p, rate in zip(parts, config.learning_rates, strict=True)
    ]
    engine, _ = cluster.accelerator.prepare(model, torch.optim.AdamW(groups))
    if not isinstance(engine, DeepSpeedEngine):
        raise RunError(
            f"expected a DeepSpeedEngine, Accelerate made a {type(engine).__name__}; "
            "unset the ACCELERATE_* variables that turn DeepSpeed off"
        )
    return engine


def save_trainable(engine: DeepSpeedEngine, folder: Path, rank: int) -> None:
    """Write the trained modules in fp32 and the collapsed offsets. Every rank must call; rank 0 writes."""
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "offsets": {}}
    for name, parameter in engine.module.named_parameters():
        part, _, rest = name.partition(".")
        parts[part][rest] = safe_get_full_fp32_param(parameter).detach().cpu().clone().contiguous()
    if rank:
        return
    folder.mkdir(parents=True)
    save_file(parts["encoder"], folder / "domain_encoder.safetensors")
    save_file(parts["offsets"], folder / "offset_predictor.safetensors")
    exact = OffsetPredictor(engine.module.offsets.shapes)
    exact.load_state_dict(parts["offsets"])
    save_offsets(exact(), folder / "weight_offsets.safetensors")
