"""Settings of the method."""

from dataclasses import dataclass
from typing import Literal

from e4t import ConfigError

PLACEHOLDER = "*s"
SEED_STRIDE = 1_000_003
"""Between the first samples of two tuning seeds."""
Precision = Literal["float32", "bfloat16", "float16"]
OptimizerName = Literal["adamw", "adamw8bit"]
OffsetType = Literal["overparametrized", "low_rank", "none"]
"""Of the weight offsets: the method's own, or their factors themselves; none, to see what they are worth."""
EncoderInputs = Literal["full", "no_unet_features", "last_layer_only"]
"""What the domain encoder looks at: every second CLIP layer and the UNet's maps; or, to see what each is worth, not the
maps, or of CLIP only the last of these layers."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which base model, and in what precision it is held."""

    model: str
    """Hub id or folder of a Stable Diffusion 1.x, 2.x or XL."""
    revision: str | None = None
    """Hub revision; a release pins the one it was trained on."""
    image_encoder: str | None = None
    """Hub id or folder of the CLIP picture tower; by default the model's own ``clip`` subfolder."""
    dtype: Precision = "float32"
    """Precision of the frozen weights."""


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """How a concept is spoken of."""

    domain_word: str
    """w, the domain's word, one token of the base's tokenizer: face, cat, art."""
    embedding_scale: float = 0.1
    """s in emb(w) + s v (E4T, arXiv 2302.12228)."""
    templates: tuple[str, ...] = ("a photo of *s",)
    """Neutral prompts of pre-training and tuning; *s stands for the concept."""
    caption_probability: float = 0.0
    """Share of prompts that are the picture's own caption with the domain word replaced by *s, so that what the caption
    says need not be learned as the concept. Captions must not describe the concept itself."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", tuple(self.templates))
        bad = [template for template in self.templates if PLACEHOLDER not in template]
        if bad or not self.templates:
            raise ConfigError(f"conditioning.templates: {bad or 'none given'}; each must hold {PLACEHOLDER}")
        if not 0 <= self.caption_probability <= 1:
            raise ConfigError(
                f"conditioning.caption_probability is {self.caption_probability}; give a share from 0 to 1"
            )


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Inference-time tuning."""

    steps: int = 15
    """Optimizer steps; the method's range is 5-15, 0 gives the encoder's own guess."""
    batch_size: int = 16
    """Copies of the picture a step, each with its own noise and timestep."""
    micro_batch_size: int = 16
    """The most copies that the device holds at once; gradients of the rest are added up."""
    learning_rate: float = 1.6e-5
    regularization_weight: float = 0.1
    """lambda on ||v||^2."""
    token_type: Literal["encoder", "embedding", "rare_token"] = "encoder"
    """What speaks of the concept: the domain encoder, which is then tuned, too; an embedding of its own, learned from
    the domain word's; or a rare word before the domain word."""
    embedding_learning_rate: float = 2.0e-3
    """Of the word ``embedding``; 0 keeps it as it is."""
    rare_token: str = "sks"
    """The rare word."""
    trainable: Literal["unet", "attention", "lora", "none"] = "unet"
    """What is tuned beside the word: the whole UNet, its attention layers, a low-rank change of these, or nothing."""
    lora_rank: int = 16
    lora_learning_rate: float = 2.0e-3
    """Of the low-rank factors, which start at zero and so have further to go than weights."""
    train_text_encoder: bool = False
    """Tune the text encoder's layers, too."""
    num_class_images: int = 0
    """Pictures of the domain word that the base makes before, and shall go on to make (prior preservation)."""
    prior_loss_weight: float = 1.0
    """Of their loss beside the concept's."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    optimizer: OptimizerName = "adamw"
    """``adamw8bit`` keeps its moments in 8 bits (Dettmers et al., arXiv 2110.02861); it needs bitsandbytes."""
    delta_bits: Literal[16, 8, 4] = 16
    """Of a number in a concept. With 4 the whole UNet's takes a quarter, and loses about 9 % of what was learned."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"tune.steps is {self.steps}; give 0 or more (5-15 is the method's range)")
        for name in ("batch_size", "micro_batch_size", "lora_rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"tune.{name} is {getattr(self, name)}; give at least 1")
        if min(self.learning_rate, self.lora_learning_rate) <= 0:
            raise ConfigError("tune.learning_rate and lora_learning_rate must be positive")
        for name in ("regularization_weight", "embedding_learning_rate", "num_class_images", "prior_loss_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"tune.{name} is {getattr(self, name)}; give at least 0")
        if self.trainable == "none" and not self.train_text_encoder and not self._token_is_trained:
            raise ConfigError("tune.trainable is nothing, and the word does not learn either; there is nothing to tune")

    @property
    def _token_is_trained(self) -> bool:
        return self.token_type == "encoder" or (self.token_type == "embedding" and self.embedding_learning_rate > 0)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How pictures are sampled."""

    num_inference_steps: int = 50
    """DDIM steps."""
    guidance_scale: float = 7.5
    """Classifier-free guidance; 1 is none."""
    guidance_rescale: float = 0.0
    """Share of the guided prediction brought back to the unguided one's spread (Lin et al., arXiv 2305.08891)."""
