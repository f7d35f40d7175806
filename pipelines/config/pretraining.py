"""Recipe sections ``cache`` and ``pretrain``."""

from dataclasses import dataclass
from typing import Literal

from e4t_errors import ConfigError
from encoder.config import EncoderInputs, OffsetType

ZERO_BUCKET_SIZE = 50_000_000
"""Elements per ZeRO communication bucket. DeepSpeed allocates a buffer of this size: with its default of 500 million
that would be 1 GB, more than the trained modules need."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Features of the frozen models, computed once by ``e4t cache`` and stored with the shards."""

    folder: str = "features"
    """Folder of the features, below ``data.output``."""
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    """Precision of the stored features."""
    batch_size: int = 32
    """Images encoded per forward pass of each rank. Reduce it if the device runs out of memory."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not self.folder:
            raise ConfigError("cache.batch_size must be at least 1, and cache.folder must not be empty")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-training of the domain encoder and the weight offsets (E4T, arXiv 2302.12228)."""

    max_steps: int = 30_000
    """Number of optimizer steps."""
    use_feature_cache: bool = False
    """Train on the features that ``e4t cache`` stored, instead of decoding and encoding every image in every epoch. Use
    it when the frozen encoders take a large part of a step. Both an image and its mirror image are stored."""
    global_batch_size: int = 16
    """Images per optimizer step, over all devices and gradient accumulation steps."""
    micro_batch_size: int = 8
    """Maximum number of images per forward pass of a device; gradients are accumulated over the rest of the batch.
    Reduce it if the device runs out of memory: the result stays the same."""
    learning_rate: float = 1.6e-5
    """Learning rate of the domain encoder, after the warm-up."""
    offset_type: OffsetType = "overparametrized"
    """Parametrization of the weight offsets: ``overparametrized`` as in the paper (143 M parameters on SD1.x),
    ``low_rank`` (the two factors directly, 0.37 M), or ``none`` for an ablation without offsets."""
    offsets_learning_rate: float | None = None
    """Learning rate of the weight offsets; by default ``learning_rate``."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up of the learning rates."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the learning rates after the warm-up. ``cosine`` decays to 0 at ``max_steps``, which therefore cannot
    be changed when the run is resumed."""
    regularization_weight: float = 0.01
    """Weight lambda of the penalty ||v||^2 on the predicted embedding, averaged over the batch."""
    hidden_width: int | None = None
    """Width of the hidden layers of the domain encoder; by default that of the CLIP image encoder."""
    encoder_inputs: EncoderInputs = "full"
    """Inputs of the domain encoder. ``full`` is the method; ``no_unet_features`` and ``last_layer_only`` (of CLIP) are
    for ablations."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage: 1 shards the optimizer state across ranks, 2 also the gradients, 3 also the trained
    weights. Higher stages need less memory and communicate more."""
    offload_optimizer: bool = False
    """Keep the optimizer state in CPU memory and run the optimizer step there (ZeRO-Offload). Saves device memory and
    is slower."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Precision of the trained modules in forward and backward passes. The optimizer always updates fp32 weights."""
    gradient_checkpointing: bool = True
    """Recompute activations of the UNet in the backward pass instead of storing them: less memory, more time."""
    compile: bool = False
    """Compile the UNet with torch.compile: the start is slower, steps are faster. Needs a C++ compiler."""
    deterministic: bool = False
    """Use only deterministic algorithms, so that reruns give the same bits. Slower on a GPU."""
    max_grad_norm: float = 1.0
    """Maximum norm of the gradients, over all trained weights; larger gradients are scaled down."""
    ema_decay: float = 0.0
    """Decay per step of an exponential moving average of the trained weights, such as 0.999. The average is then what
    validation and releases use. 0 disables it."""
    max_consecutive_skips: int = 8
    """Number of consecutive steps with a non-finite loss or gradient, which are skipped, after which the run fails."""
    loss_spike_factor: float = 10.0
    """Report a loss spike, with the keys of its images, when a loss exceeds the median of the last 128 steps by this
    many median absolute deviations."""
    init_timeout_seconds: float = 3600.0
    """Timeout in seconds of loading, the first step, validation and the end. A rank that exceeds it exits, so that a
    hang does not hold the devices. Increase it for large models on slow storage."""
    step_timeout_seconds: float = 600.0
    """Timeout in seconds of every step after the first."""
    stop_signal: str = "SIGUSR2"
    """Signal, besides SIGTERM and SIGINT, on which the run saves a checkpoint and exits with 75 (rerun to resume)."""
    log_every: int = 10
    """Steps between lines in the log and values in metrics.jsonl and MLflow."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep_last: int = 2
    """Number of latest checkpoints to keep."""
    keep_every: int = 0
    """Keep every checkpoint whose step is a multiple of this number, in addition to the latest. 0 disables it."""
    eval_every: int = 1000
    """Steps between validations: the validation loss, and a grid of held-out images with their reconstructions."""
    eval_samples: int = 64
    """Number of held-out images of the validation loss, which is computed at fixed noise and timesteps."""

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "global_batch_size",
            "micro_batch_size",
            "log_every",
            "checkpoint_every",
            "keep_last",
            "eval_every",
            "eval_samples",
            "max_consecutive_skips",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"pretrain.{name} is {getattr(self, name)}; give at least 1")
        for name in ("regularization_weight", "warmup_steps", "keep_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"pretrain.{name} is {getattr(self, name)}; give at least 0")
        if min(self.learning_rates) <= 0:
            raise ConfigError("pretrain.learning_rate and offsets_learning_rate must be positive")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"pretrain.ema_decay is {self.ema_decay}; give a decay such as 0.999, or 0 for none")
        if min(self.init_timeout_seconds, self.step_timeout_seconds) <= 0:
            raise ConfigError("pretrain.init_timeout_seconds and step_timeout_seconds must be positive")

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Learning rates of the domain encoder and of the weight offsets."""
        return self.learning_rate, self.offsets_learning_rate or self.learning_rate

    def micro_batch_split(self, world_size: int) -> tuple[int, int]:
        """Split the global batch equally: return (micro batch size, gradient accumulation steps) of every device.

        Raises ConfigError if the global batch size is not a multiple of ``world_size``.
        """
        local_batch_size, remainder = divmod(self.global_batch_size, world_size)
        if remainder or not local_batch_size:
            divisors = ", ".join(
                str(n) for n in range(1, self.global_batch_size + 1) if self.global_batch_size % n == 0
            )
            raise ConfigError(
                f"pretrain.global_batch_size {self.global_batch_size} is not a multiple of {world_size} "
                f"devices; start {divisors} devices, or change it"
            )
        micro_batch_size = next(
            n for n in range(min(self.micro_batch_size, local_batch_size), 0, -1) if local_batch_size % n == 0
        )
        return micro_batch_size, local_batch_size // micro_batch_size
