"""Configuration of ``e4t cache`` and ``e4t pretrain``."""

from dataclasses import dataclass
from typing import Literal

from e4t import ConfigError
from encoder.config import EncoderInputs, OffsetType

ZERO_BUCKET_SIZE = 50_000_000
"""Numbers that ranks send at once. DeepSpeed holds a buffer of so many: of its own 500 million, 1 GB for nothing."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Features of the frozen models, computed once and kept beside the shards."""

    folder: str = "features"
    """In the set's folder."""
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    batch_size: int = 32
    """Pictures encoded at once."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not self.folder:
            raise ConfigError("cache.batch_size must be at least 1, and cache.folder a name")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-training of the domain encoder and the weight offsets."""

    max_steps: int = 30_000
    use_feature_cache: bool = False
    """Train on what ``e4t cache`` has kept instead of decoding and encoding every picture anew."""
    global_batch_size: int = 16
    """Pictures an optimizer step, over all devices."""
    micro_batch_size: int = 8
    """The most pictures that a device holds at once; the rest of its share of the batch is accumulated."""
    learning_rate: float = 1.6e-5
    offset_type: OffsetType = "overparametrized"
    """The method's own form of the weight offsets (143 M parameters on SD1.x), their factors themselves (0.37 M), or
    none at all."""
    offsets_learning_rate: float | None = None
    """Of the weight offsets; the encoder's unless given."""
    warmup_steps: int = 0
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate after the warm-up."""
    regularization_weight: float = 0.01
    """lambda on ||v||^2, mean over the batch."""
    hidden_width: int | None = None
    """Width of the domain encoder's pooled hierarchy; CLIP's own unless given."""
    encoder_inputs: EncoderInputs = "full"
    """What the domain encoder looks at; anything less is for ablations."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage: 1 shards the optimizer's state, 2 gradients, too, 3 the trained weights, too."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the host's memory, and step there."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Of the trained modules in the step; the optimizer's weights are always fp32."""
    gradient_checkpointing: bool = True
    compile: bool = False
    """Compile the UNet with torch.compile: slower to start, faster to run, and needs a C++ compiler."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time; slower on a GPU."""
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    """Decay of a moving average of the trained weights, which is then what is shown and released; 0 keeps none."""
    max_consecutive_skips: int = 8
    """Steps in a row with a loss or gradient that is not finite (each is skipped) before the run gives up."""
    loss_spike_factor: float = 10.0
    """A loss so many median deviations above the median of the last 128 steps is reported with its pictures."""
    init_timeout_seconds: float = 3600.0
    """For what may take long: loading, the first step, validation, the end. Then a rank that hangs ends itself."""
    step_timeout_seconds: float = 600.0
    """The same for a step after the first."""
    stop_signal: str = "SIGUSR2"
    """Beside SIGTERM and SIGINT: save, and end with exit code 75, which says start me again."""
    log_every: int = 10
    checkpoint_every: int = 1000
    keep_last: int = 2
    """Newest checkpoints kept."""
    keep_every: int = 0
    """Checkpoints of every so many steps are kept for good; 0 keeps none."""
    eval_every: int = 1000
    """Steps between grids of held-out pictures and what the encoder makes of them."""
    eval_samples: int = 64
    """Held-out pictures of the validation loss, computed with each grid at fixed noise and timesteps."""

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
        """Of the domain encoder and of the weight offsets."""
        return self.learning_rate, self.offsets_learning_rate or self.learning_rate

    def micro_batch_split(self, world_size: int) -> tuple[int, int]:
        """Pictures that each of ``world`` devices holds at once, and how often a step; every device does the same.

        Raises ConfigError if the batch cannot be shared.
        """
        local_batch_size, remainder = divmod(self.global_batch_size, world_size)
        if remainder or not local_batch_size:
            divisors = ", ".join(
                str(n) for n in range(1, self.global_batch_size + 1) if self.global_batch_size % n == 0
            )
            raise ConfigError(
                f"pretrain.global_batch_size {self.global_batch_size} cannot be shared by {world_size} devices; start {divisors} of them, or "
                "change it"
            )
        micro_batch_size = next(
            n for n in range(min(self.micro_batch_size, local_batch_size), 0, -1) if local_batch_size % n == 0
        )
        return micro_batch_size, local_batch_size // micro_batch_size
