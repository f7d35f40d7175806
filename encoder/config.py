"""Configuration of the base model, the conditioning, tuning and sampling."""

from dataclasses import dataclass
from typing import Literal

from e4t_errors import ConfigError
from encoder.placeholder import PLACEHOLDER, has_placeholder

SEED_STRIDE = 1_000_003
"""Distance between the noise seeds of two tuning seeds, so that their samples never share noise."""
Precision = Literal["float32", "bfloat16", "float16"]
OptimizerName = Literal["adamw", "adamw8bit"]
OffsetType = Literal["overparametrized", "low_rank", "none"]
"""Form of the weight offsets: ``overparametrized`` as in the paper, ``low_rank`` with the factors as parameters, or
``none`` for ablations."""
EncoderInputs = Literal["full", "no_unet_features", "last_layer_only"]
"""Inputs of the domain encoder: ``full`` for the class tokens of every second CLIP layer and the UNet's pooled
features; for ablations ``no_unet_features``, or ``last_layer_only`` with the class token of only the last of these
layers."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The base model and the precision of its weights."""

    model: str
    """Hub id or folder of a Stable Diffusion 1.x, 2.x or XL model."""
    revision: str | None = None
    """Hub revision (branch, tag or commit). A release pins the commit that it was trained on."""
    image_encoder: str | None = None
    """Hub id or folder of the CLIP image encoder. By default the ``clip`` subfolder of the model."""
    dtype: Precision = "float32"
    """Precision of the frozen weights. Choose ``bfloat16`` or ``float16`` to halve their memory on a GPU."""


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """How prompts refer to a concept."""

    domain_word: str
    """Word for the domain, such as face, cat or art. It must be one token of every tokenizer of the base model."""
    embedding_scale: float = 0.1
    """Factor s of the encoder's output v in the placeholder's embedding emb(domain_word) + s v (E4T, arXiv
    2302.12228)."""
    templates: tuple[str, ...] = ("a photo of *s",)
    """Neutral prompts for pretraining and tuning; ``*s`` stands for the concept."""
    caption_probability: float = 0.0
    """Probability (0 to 1) that an image's prompt is its own caption, with the domain word replaced by ``*s``, instead
    of a template. What the caption says is then not learned as part of the concept. Captions must not describe the
    concept itself."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", tuple(self.templates))
        if not self.templates:
            raise ConfigError(f"conditioning.templates is empty; give at least one prompt with {PLACEHOLDER}")
        if invalid := [template for template in self.templates if not has_placeholder(template)]:
            raise ConfigError(f"conditioning.templates: {invalid[0]!r} lacks {PLACEHOLDER}, which every template needs")
        if not 0 <= self.caption_probability <= 1:
            raise ConfigError(
                f"conditioning.caption_probability is {self.caption_probability}; give a value from 0 to 1"
            )


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Tuning on a user's images."""

    steps: int = 15
    """Optimizer steps. The paper uses 5 to 15; 0 keeps the output of the pretrained encoder."""
    batch_size: int = 16
    """Samples per step. Each is a copy of an image with its own noise and timestep."""
    micro_batch_size: int = 16
    """Most samples in one forward pass; gradients are accumulated. Lower it if tuning runs out of memory."""
    learning_rate: float = 1.6e-5
    """Learning rate of the weights that are tuned: the domain encoder, the UNet and the text encoder."""
    regularization_weight: float = 0.1
    """Weight of the regularization ||v||^2, which keeps the concept near the domain word."""
    token_type: Literal["encoder", "embedding", "rare_token"] = "encoder"
    """Representation of the concept in prompts: ``encoder`` for the output of the domain encoder, which is tuned as
    well; ``embedding`` for a learned token embedding, initialized from the domain word's (Textual Inversion);
    ``rare_token`` for a rare word before the domain word (DreamBooth)."""
    embedding_learning_rate: float = 2.0e-3
    """Learning rate of the token embedding if ``token_type`` is ``embedding``; 0 freezes it."""
    rare_token: str = "sks"
    """The word before the domain word if ``token_type`` is ``rare_token``."""
    trainable: Literal["unet", "attention", "lora", "none"] = "unet"
    """UNet weights that are tuned: all (``unet``), those of the attention layers (``attention``), low-rank adapters of
    the attention layers (``lora``), or ``none``."""
    lora_rank: int = 16
    """Rank of the adapters if ``trainable`` is ``lora``."""
    lora_learning_rate: float = 2.0e-3
    """Learning rate of the low-rank factors. They start at zero and need a larger one than pretrained weights."""
    train_text_encoder: bool = False
    """Tune the layers of the text encoders as well."""
    num_class_images: int = 0
    """Class images for prior preservation (DreamBooth): generated with the domain word before tuning. 0 disables it."""
    prior_loss_weight: float = 1.0
    """Weight of the loss on class images, relative to the loss on the concept's images."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    optimizer: OptimizerName = "adamw"
    """``adamw8bit`` stores its moments in 8 bits (Dettmers et al., arXiv 2110.02861) and needs bitsandbytes."""
    delta_bits: Literal[16, 8, 4] = 16
    """Bits per value of a saved weight delta. With 4 a concept of the whole UNet takes a quarter of the space, with a
    relative error of about 9 % in the learned deltas."""
    seed: int = 0
    """Seed of noise, timesteps and prompts."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"tune.steps is {self.steps}; give 0 or more (the paper uses 5 to 15)")
        for name in ("batch_size", "micro_batch_size", "lora_rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"tune.{name} is {getattr(self, name)}; give at least 1")
        for name in ("learning_rate", "lora_learning_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"tune.{name} is {getattr(self, name)}; give a positive number")
        for name in ("regularization_weight", "embedding_learning_rate", "num_class_images", "prior_loss_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"tune.{name} is {getattr(self, name)}; give at least 0")
        if self.trainable == "none" and not self.train_text_encoder and not self._token_is_trained:
            raise ConfigError(
                "tune.trainable is none, and neither the token nor the text encoder is trained, so there is nothing to "
                "tune; choose another tune.trainable or token_type"
            )

    @property
    def _token_is_trained(self) -> bool:
        return self.token_type == "encoder" or (self.token_type == "embedding" and self.embedding_learning_rate > 0)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How images are sampled."""

    num_inference_steps: int = 50
    """Number of DDIM steps. More take longer and give finer images."""
    guidance_scale: float = 7.5
    """Scale of classifier-free guidance (Ho & Salimans, arXiv 2207.12598); 1 disables it."""
    guidance_rescale: float = 0.0
    """Strength (0 to 1) of rescaling guided predictions to the std of unguided ones (Lin et al., arXiv 2305.08891). It
    reduces overexposure."""
