"""What the tiny base is made of and how long each part trains."""

from dataclasses import dataclass, field
from typing import Literal

from e4t import ConfigError


@dataclass(frozen=True, kw_only=True)
class TimeBudget:
    """A training budget by the clock: the learning rate warms up, then follows a cosine to zero over ``minutes``."""

    minutes: float
    """Wall-clock bound of the training loop."""
    batch_size: int
    """Samples a step on each process."""
    learning_rate: float

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ConfigError(f"base: budget {self} must be positive in every field")


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """What ``e4t demo base`` trains."""

    image_dir: str = "data/faces"
    """Folder with a folder for each concept, as ``e4t demo faces`` and ``e4t demo emoji`` leave them: pictures with a .txt (what
    of it is not the concept) and a .captions.txt (complete; the concept alone; partial). Train concepts are used."""
    domain_word: str = "person"
    """What captions call any concept."""
    output: str = "models/base"
    """Folder in the layout that StableDiffusionPipeline opens, plus ``clip/``."""
    init_from: str | None = None
    """Another such folder, whose weights new parts begin with, wherever they fit: words are learned anew."""
    parts: tuple[Literal["autoencoder", "clip", "attributes", "recogniser", "diffusion"], ...] = (
        "autoencoder",
        "clip",
        "attributes",
        "recogniser",
        "diffusion",
    )
    """What is trained, in this order, each from what the folder holds of it already; later parts use earlier ones.
    ``attributes`` and ``recogniser`` are of drawn faces alone."""
    resolution: int = 64
    text_length: int = 40
    """Tokens of a prompt, start and end included."""
    text_width: int = 128
    text_layers: int = 4
    image_width: int = 128
    image_layers: int = 8
    """Every second layer's class token feeds the domain encoder."""
    patch_size: int = 8
    latent_channels: int = 8
    autoencoder_channels: tuple[int, ...] = (32, 32, 64)
    unet_channels: tuple[int, ...] = (48, 96, 160)
    autoencoder: TimeBudget = field(default_factory=lambda: TimeBudget(minutes=20, batch_size=16, learning_rate=1e-3))
    clip: TimeBudget = field(default_factory=lambda: TimeBudget(minutes=20, batch_size=128, learning_rate=1e-3))
    diffusion: TimeBudget = field(default_factory=lambda: TimeBudget(minutes=60, batch_size=32, learning_rate=8e-4))
    attributes: TimeBudget = field(default_factory=lambda: TimeBudget(minutes=6, batch_size=128, learning_rate=2e-3))
    recognizer: TimeBudget = field(default_factory=lambda: TimeBudget(minutes=10, batch_size=64, learning_rate=2e-3))
    recognizer_faces: str = "data/faces-strangers"
    """Folder drawn by ``e4t demo faces`` with another seed: people that nothing else uses."""
    seed: int = 0
