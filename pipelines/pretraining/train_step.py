"""One optimizer step of one rank: forward, backward and step over the micro-batches of its local batch."""

from dataclasses import dataclass

import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor

from data_prep.shards.reader import to_float
from data_prep.stream.stream import Batch
from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.model.conditioning import Conditioning
from encoder.model.features import EncodedImages, encode_images
from encoder.model.weight_offsets import offset_scope
from pipelines.config.recipe import Recipe
from pipelines.pretraining.feature_cache import to_encoded_images
from pipelines.pretraining.model import sample_noise
from pipelines.pretraining.optimizer import SkipStepAdamW, learning_rate_factor
from pipelines.runtime.flop_counter import FlopCounter

SEED_STRIDE = 1_000_003
"""Distance between the noise seeds of two recipe seeds: samples closer than this never share a seed."""


@dataclass(frozen=True)
class StepOutput:
    """Result of an optimizer step, on the device and possibly not computed yet."""

    losses: Tensor
    """(3,) mean total, denoising and regularization loss of this rank's samples; float32."""
    skipped: Tensor
    """Scalar: whether a loss or gradient was not finite on some rank, so that the weights did not change."""


@dataclass(frozen=True)
class TrainStep:
    """Run optimizer steps with a DeepSpeed engine over the frozen backbone."""

    recipe: Recipe
    backbone: Backbone
    conditioning: Conditioning
    engine: DeepSpeedEngine
    optimizer: SkipStepAdamW

    def __call__(self, batch: Batch, step: int) -> StepOutput:
        """Run the optimizer step that follows ``step`` finished ones, over this rank's part of the global batch."""
        config = self.recipe.pretrain
        self._set_learning_rates(step)
        noise = sample_noise(
            self.recipe, self.backbone, [self.recipe.seed * SEED_STRIDE + index for index in batch.indices]
        )
        prompts = self.conditioning.sample_prompts(batch.captions, noise.prompt_choice)
        micro_batch_size, accumulation_steps = config.micro_batch_split(self.engine.world_size)
        steps_before, micro_losses = self.optimizer.steps_taken, []
        for start in range(0, micro_batch_size * accumulation_steps, micro_batch_size):
            rows = slice(start, start + micro_batch_size)
            with offset_scope(self.backbone.unet):
                images = self._encode(batch, rows)
                losses = self.engine(images, prompts[rows], noise[rows], config.regularization_weight)
                self.engine.backward(losses.total)
            self.engine.step()
            micro_losses.append(torch.stack([losses.total, losses.denoising, losses.regularization]).detach().float())
        return StepOutput(torch.stack(micro_losses).mean(dim=0), self.optimizer.steps_taken == steps_before)

    def warm_up(self, batch: Batch) -> float:
        """Run one step, so that a batch that does not fit into memory fails before training starts.

        The caller restores the training state afterwards. Returns the teraflops that the step takes on this rank, or 0
        for compiled code, whose operations cannot be counted. Raises ConfigError if memory runs out.
        """
        try:
            if self.recipe.pretrain.compile:
                self(batch, 0)
                return 0.0
            counter = FlopCounter()
            with counter:
                self(batch, 0)
            return counter.flops / 1e12
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            config, resolution = self.recipe.pretrain, self.recipe.data.resolution
            micro_batch_size, _ = config.micro_batch_split(self.engine.world_size)
            raise ConfigError(
                f"out of memory with a micro-batch of {micro_batch_size} images at {resolution} pixels; "
                f"lower pretrain.micro_batch_size (the global batch stays {config.global_batch_size}), or set "
                "pretrain.gradient_checkpointing, pretrain.offload_optimizer, or base.dtype: bfloat16"
            ) from error

    def metrics(self) -> dict[str, float]:
        """Return the learning rate and, if the engine knows it, the gradient norm of the last step.

        Reading the norm waits for the device.
        """
        norm = self.engine.get_global_grad_norm()
        learning_rate = {"learning_rate": float(self.engine.optimizer.param_groups[0]["lr"])}
        return learning_rate if norm is None else {"grad_norm": float(norm)} | learning_rate

    def _set_learning_rates(self, step: int) -> None:
        factor = learning_rate_factor(self.recipe.pretrain, step)
        # Without weight offsets there is only the first parameter group.
        rates = self.recipe.pretrain.learning_rates
        for group, rate in zip(self.engine.optimizer.param_groups, rates, strict=False):
            group["lr"] = rate * factor

    def _encode(self, batch: Batch, rows: slice) -> EncodedImages:
        if self.recipe.pretrain.use_feature_cache:
            return to_encoded_images({name: tensor[rows] for name, tensor in batch.tensors.items()}, self.engine.device)
        return encode_images(self.backbone, to_float(batch.tensors["pixels"][rows].to(self.engine.device)))


def _is_out_of_memory(error: Exception) -> bool:
    message = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in message or "can't allocate memory" in message
