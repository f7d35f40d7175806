"""Recipe sections ``evaluate`` and ``compare``: the systems, concepts, prompts and metrics of an evaluation."""

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from e4t_errors import ConfigError
from encoder.config import TuneConfig
from encoder.tuning.presets import METHODS

RELEASE, BASE = "release", "base"
PRETRAINED = "pretrained"
"""Name of the release in the report of ``e4t evaluate``."""


@dataclass(frozen=True, kw_only=True)
class System:
    """A way to generate images of a concept: a tuning method, where it starts and how many images it gets."""

    name: str
    """Name in tables and plots. Names must differ in their letters or digits."""
    method: Literal["none", "e4t", "textual-inversion", "dreambooth", "pivotal"]
    """Tuning method. ``none`` does not tune: it sees only the prompt."""
    init: str = BASE
    """Weights that tuning starts from: ``base`` (the base model alone), ``release`` (the evaluated release), or the
    folder, registry or Hub id of another release."""
    num_images: int = 1
    """Number of images per concept to tune on."""
    steps: tuple[int, ...] = (0,)
    """Numbers of tuning steps after which images are generated and measured."""
    init_from: str | None = None
    """Name of a Textual Inversion system above, with the same ``num_images``, whose learned embedding is the start."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keys of ``tune`` that replace those of the method."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(sorted(self.steps)))
        if not self.slug or not self.steps or self.steps[0] < 0 or self.num_images < 1:
            raise ConfigError(
                f"system {self.name!r}: give a name of letters or digits, steps of at least 0, and "
                "num_images of at least 1"
            )
        if self.method == "none" and self.steps != (0,):
            raise ConfigError(f"system {self.name!r}: method none does not tune; set steps to 0")
        known = {each.name for each in fields(TuneConfig)}
        if unknown := sorted(self.settings.keys() - known):
            raise ConfigError(f"system {self.name!r}: unknown settings {', '.join(unknown)}; see docs/tuning.md")

    @property
    def slug(self) -> str:
        """Name of the folder of results: the name in lower case, with dashes between words."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def tune_config(self, recipe: TuneConfig) -> TuneConfig:
        """Return the tuning settings: those of the recipe for E4T, the published ones for other methods."""
        if self.method == "none":
            return recipe
        defaults = recipe if self.method == "e4t" else METHODS[self.method]
        return replace(defaults, **self.settings, steps=self.steps[-1])


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Concepts, prompts and metrics of ``e4t evaluate`` and ``e4t compare``."""

    num_concepts: int = 16
    """Number of concepts, drawn from the split with ``evaluate.seed``. More of them narrow the confidence intervals."""
    split: Literal["test", "val"] = "test"
    """Split of the concepts: use ``val`` to choose settings, and ``test`` for numbers that are published."""
    num_prompts: int = 2
    """Number of prompts per concept, besides the caption of its own image."""
    prompts: str | None = None
    """Text file with one prompt per line, in which *s stands for the concept, or a list that comes with e4t (faces,
    cats, art). By default the prompts are the captions of the concept's other images, which are then the reference
    images."""
    steps: tuple[int, ...] = (0, 5, 10, 15)
    """Numbers of tuning steps after which the release is measured."""
    clip: str | None = None
    """CLIP model (image and text encoder) that computes the similarities, as Hub id or folder. By default the ``clip``
    folder of the base model."""
    recognizer: str | None = None
    """Model whose image features tell concepts apart, as Hub id or folder: DINO, or a face recognizer. It adds the
    metrics recognizer_similarity and identity_accuracy."""
    num_grid_concepts: int = 6
    """Number of concepts shown in grid.png, at most ``num_concepts``."""
    seed: int = 0
    """Seed of the choice of concepts and prompts, of tuning and of sampling."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(sorted(self.steps)))
        if (
            self.num_concepts < self.num_grid_concepts
            or self.num_grid_concepts < 1
            or not self.steps
            or self.num_prompts < 1
        ):
            raise ConfigError(
                "evaluate: give at least one value in steps, num_prompts and num_grid_concepts of at least "
                "1, and num_concepts of at least num_grid_concepts"
            )

    @property
    def systems(self) -> tuple[System, ...]:
        """The release, and its baselines: the base model untuned, and the same tuning without pre-training."""
        return (
            System(name="base from caption", method="none"),
            System(name=PRETRAINED, method="e4t", init=RELEASE, steps=self.steps),
            System(name="untrained", method="e4t", steps=self.steps),
        )


def _published_systems() -> tuple[System, ...]:
    """Return the systems of the comparison in the E4T paper, each with the settings that its authors published."""
    inversion_steps, dreambooth_steps, pivotal_steps = (100, 300, 1000, 3000), (100, 200, 400, 800), (100, 300, 1000)
    baselines: list[System] = []
    for num_images, label in ((1, "1 image"), (5, "5 images")):
        inversion = f"Textual Inversion, {label}"
        baselines += [
            System(name=inversion, method="textual-inversion", num_images=num_images, steps=inversion_steps),
            System(name=f"DreamBooth, {label}", method="dreambooth", num_images=num_images, steps=dreambooth_steps),
            System(
                name=f"Textual Inversion + DreamBooth, {label}",
                method="pivotal",
                num_images=num_images,
                steps=pivotal_steps,
                init_from=inversion,
            ),
        ]
    return (
        System(name="Stable Diffusion", method="none"),
        *baselines,
        System(name="E4T", method="e4t", init=RELEASE, steps=(0, 5, 10, 15)),
        System(name="E4T without pre-training", method="e4t", steps=(0, 5, 10, 15)),
    )


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Systems of ``e4t compare``; their concepts, prompts and metrics are those of ``evaluate``."""

    systems: tuple[System, ...] = field(default_factory=_published_systems)
    """Systems to compare. By default those of the E4T paper, for Stable Diffusion 1.5."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "systems", tuple(self.systems))
        by_name: dict[str, System] = {}
        for system in self.systems:
            if any(system.slug == other.slug for other in by_name.values()):
                raise ConfigError(f"compare.systems: two systems are named {system.name!r}; rename one")
            if system.init_from and by_name.get(system.init_from, system).method != "textual-inversion":
                raise ConfigError(
                    f"system {system.name!r}: init_from is {system.init_from!r}; name a Textual Inversion "
                    "system above it"
                )
            by_name[system.name] = system
