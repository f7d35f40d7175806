"""Configuration of ``e4t demo base``: architecture of the tiny base model and training time of each part."""

from dataclasses import dataclass, field
from typing import Literal

from e4t_errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TimeBudget:
    """A training budget in wall-clock time: the learning rate warms up, then follows a cosine to zero."""

    minutes: float
    """Duration of the training loop in minutes."""
    batch_size: int
    """Samples per step on each process."""
    learning_rate: float
    """Peak learning rate of AdamW."""

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ConfigError(f"time budget {self}: every field must be positive")


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Train the tiny base model of the built-in domain (tokenizer, autoencoder, CLIP, UNet, evaluation models)."""

    image_dir: str = "data/faces"
    """Folder with one subfolder per concept, as created by ``e4t demo faces`` and ``e4t demo emoji``. Each image has a
    .txt file (caption without the concept) and a .captions.txt file (complete caption; concept only; partial caption).
    Only concepts of the training split are used."""
    domain_word: str = "person"
    """Word that captions use for any concept."""
    output: str = "models/base"
    """Output folder, in the layout of StableDiffusionPipeline with an additional ``clip/``."""
    init_from: str | None = None
    """Another folder of this layout. New parts start from its weights where shapes match; token embeddings do not."""
    parts: tuple[Literal["autoencoder", "clip", "attributes", "recognizer", "diffusion"], ...] = (
        "autoencoder",
        "clip",
        "attributes",
        "recognizer",
        "diffusion",
    )
    """Parts to train, in this order. A part that exists in ``output`` is trained further; later parts use earlier ones.
    ``attributes`` and ``recognizer`` exist for drawn faces only."""
    resolution: int = 64
    """Side of the images in pixels."""
    text_length: int = 40
    """Maximum number of tokens of a prompt, including start and end token."""
    text_width: int = 128
    """Hidden size of the text encoder."""
    text_layers: int = 4
    """Number of layers of the text encoder."""
    image_width: int = 128
    """Hidden size of the CLIP image encoder."""
    image_layers: int = 8
    """Number of layers of the CLIP image encoder. The domain encoder uses the class token of every second layer."""
    patch_size: int = 8
    """Patch size of the CLIP image encoder in pixels."""
    latent_channels: int = 8
    """Number of latent channels of the autoencoder."""
    autoencoder_channels: tuple[int, ...] = (32, 32, 64)
    """Channels of the autoencoder's blocks; every block after the first halves the resolution."""
    unet_channels: tuple[int, ...] = (48, 96, 160)
    """Channels of the UNet's blocks."""
    autoencoder: TimeBudget = field(default_factory=lambda: TimeBudget(minutes=20, batch_size=16, learning_rate=1e-3))
    """Training budget of the autoencoder."""
    clip: TimeBudget = field(default_factory=lambda: TimeBudget(minutes=20, batch_size=128, learning_rate=1e-3))
    """Training budget of CLIP."""
    diffusion: TimeBudget = field(default_factory=lambda: TimeBudget(minutes=60, batch_size=32, learning_rate=8e-4))
    """Training budget of the UNet and its text encoder."""
    attributes: TimeBudget = field(default_factory=lambda: TimeBudget(minutes=6, batch_size=128, learning_rate=2e-3))
    """Training budget of the attribute classifier."""
    recognizer: TimeBudget = field(default_factory=lambda: TimeBudget(minutes=10, batch_size=64, learning_rate=2e-3))
    """Training budget of the recognizer."""
    recognizer_faces: str = "data/faces-recognizer"
    """Folder created by ``e4t demo faces`` with another seed: identities that nothing else uses."""
    seed: int = 0
    """Seed of initialization, data order and noise."""
