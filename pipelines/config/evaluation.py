"""What is evaluated, and against what."""

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from e4t import ConfigError
from encoder.config import TuneConfig
from encoder.tuning.presets import METHODS

RELEASE, BASE = "release", "base"
PRETRAINED = "pretrained"
"""What ``e4t evaluate`` calls the release."""


@dataclass(frozen=True, kw_only=True)
class System:
    """A way to make pictures of a concept."""

    name: str
    """As tables and plots call it; no two alike."""
    method: Literal["none", "e4t", "textual-inversion", "dreambooth", "pivotal"]
    """How it is tuned; ``none`` knows no more than the prompt says."""
    init: str = BASE
    """Where tuning starts: the bare ``base``, the ``release`` at hand, or another release's place."""
    num_images: int = 1
    """Of each concept, to tune on."""
    steps: tuple[int, ...] = (0,)
    """Tuning steps after which it is looked at."""
    init_from: str | None = None
    """Name of a system of as many pictures, whose learned word it takes up."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of ``tune`` in place of the method's own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(sorted(self.steps)))
        if not self.slug or not self.steps or self.steps[0] < 0 or self.num_images < 1:
            raise ConfigError(
                f"system {self.name!r}: give a name, at least one number of steps, and pictures from 1 up"
            )
        if self.method == "none" and self.steps != (0,):
            raise ConfigError(f"system {self.name!r} is tuned by no method; its steps are 0")
        known = {each.name for each in fields(TuneConfig)}
        if unknown := sorted(self.settings.keys() - known):
            raise ConfigError(f"system {self.name!r}: settings have no {', '.join(unknown)}; see docs/tuning.md")

    @property
    def slug(self) -> str:
        """The name as a folder's."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def tune_config(self, recipe: TuneConfig) -> TuneConfig:
        """Settings of its tuning; E4T's are the recipe's own, a rival's those of its published recipe."""
        if self.method == "none":
            return recipe
        defaults = recipe if self.method == "e4t" else METHODS[self.method]
        return replace(defaults, **self.settings, steps=self.steps[-1])


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """On whom, on what prompts, and by which measures."""

    num_concepts: int = 16
    """Drawn from the split, as the seed says."""
    split: Literal["test", "val"] = "test"
    """``val`` to choose settings by, ``test`` to report."""
    num_prompts: int = 2
    """Prompts of each concept beside that of its own picture."""
    prompts: str | None = None
    """File of prompts with *s, one a line, or a list that comes with e4t (faces, cats, art); unless given, prompts are
    the captions of the concept's other pictures, which are then the truth to compare with."""
    steps: tuple[int, ...] = (0, 5, 10, 15)
    """Tuning steps after which the release is looked at."""
    clip: str | None = None
    """CLIP with both towers that measures, as hub id or folder; unless given, the base's ``clip`` folder."""
    recognizer: str | None = None
    """Model whose picture features tell concepts apart, as hub id or folder: DINO, a face recogniser."""
    num_grid_concepts: int = 6
    """Concepts in the picture."""
    seed: int = 0
    """Of the choice of concepts and prompts, and of tuning and sampling."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(sorted(self.steps)))
        if (
            self.num_concepts < self.num_grid_concepts
            or self.num_grid_concepts < 1
            or not self.steps
            or self.num_prompts < 1
        ):
            raise ConfigError("evaluate: give at least one step and edit, and at least as many concepts as are shown")

    @property
    def systems(self) -> tuple[System, ...]:
        """What a release is held against: the base as it is, and the same tuning from nothing pre-trained."""
        return (
            System(name="base from the caption", method="none"),
            System(name=PRETRAINED, method="e4t", init=RELEASE, steps=self.steps),
            System(name="untrained", method="e4t", steps=self.steps),
        )


def _published_systems() -> tuple[System, ...]:
    """The article's columns, each method by its published recipe."""
    inversion_steps, dreambooth_steps, pivotal_steps = (100, 300, 1000, 3000), (100, 200, 400, 800), (100, 300, 1000)
    baselines: list[System] = []
    for num_images, label in ((1, "1 picture"), (5, "5 pictures")):
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
        System(name="E4T, nothing pre-trained", method="e4t", steps=(0, 5, 10, 15)),
    )


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The systems that stand beside each other; on whom and by which measures is ``evaluate``'s to say."""

    systems: tuple[System, ...] = field(default_factory=_published_systems)

    def __post_init__(self) -> None:
        object.__setattr__(self, "systems", tuple(self.systems))
        by_name: dict[str, System] = {}
        for system in self.systems:
            if any(system.slug == other.slug for other in by_name.values()):
                raise ConfigError(f"compare.systems: two are called {system.name!r}")
            if system.init_from and by_name.get(system.init_from, system).method != "textual-inversion":
                raise ConfigError(
                    f"system {system.name!r}: after {system.init_from!r}; name a Textual Inversion above it"
                )
            by_name[system.name] = system
