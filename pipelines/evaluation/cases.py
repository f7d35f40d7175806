"""Held-out concepts: what they are tuned on, and what is then asked of them."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from data_prep.stream.stream import Sample, ShardReader
from encoder.config import PLACEHOLDER
from encoder.errors import ConfigError
from encoder.model.conditioning import caption_prompt
from pipelines.config.recipe import Recipe

PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True, eq=False)
class Case:
    """A concept that nothing was trained on."""

    concept: str
    pictures: tuple[Image.Image, ...]
    """To tune on; the first is what similarity is measured to."""
    captions: tuple[str, ...]
    """Theirs, with *s for the concept."""
    edits: tuple[str, ...]
    """What is asked, with *s."""
    truths: tuple[Image.Image, ...]
    """What each edit truly looks like; none if nobody knows."""
    seed: int
    """Of tuning and sampling."""

    @property
    def prompts(self) -> list[str]:
        """What every system paints: the first picture's own caption, then the edits."""
        return [self.captions[0], *self.edits]

    @cached_property
    def fingerprints(self) -> list[str]:
        """Sha256 of each picture's pixels."""
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in self.pictures]


def choose_cases(recipe: Recipe, pictures: int) -> list[Case]:
    """Concepts with ``pictures`` pictures to tune on; the same for equal recipes.

    Raises ConfigError if no concept of the split has enough pictures.
    """
    config = recipe.evaluate
    needed = pictures + (0 if config.prompts else config.edits)
    reader = ShardReader(recipe.data.output, config.split, recipe.stream)
    places: dict[str, list[tuple[int, int]]] = {}
    for shard, count in enumerate(reader.counts):
        for row in range(count):
            places.setdefault(reader.metadata(shard, row).identity, []).append((shard, row))
    enough = sorted(name for name, of_it in places.items() if len(of_it) >= needed)
    if not enough:
        raise ConfigError(
            f"no concept of {recipe.data.output}'s {config.split} split has {needed} pictures, {pictures} of them to "
            "tune on; give systems fewer pictures, evaluate.edits fewer, or evaluate.prompts"
        )
    rng = random.Random(f"evaluate-{config.seed}")
    chosen = rng.sample(enough, min(config.concepts, len(enough)))
    listed = read_prompts(config.prompts) if config.prompts else []
    asked = [rng.sample(listed, min(config.edits, len(listed))) for _ in chosen]
    shown = ([reader.read(*place) for place in places[name][:needed]] for name in chosen)
    triples = enumerate(zip(shown, asked, strict=True))
    return [_case(recipe, samples, pictures, prompts, index) for index, (samples, prompts) in triples]


def _case(recipe: Recipe, samples: Sequence[Sample], pictures: int, prompts: Sequence[str], index: int) -> Case:
    """Of a concept's samples: the first ones are tuned on; the next ones are asked for, unless there are prompts."""
    own, others = samples[:pictures], samples[pictures:]
    return Case(
        concept=samples[0].identity,
        pictures=tuple(_image(sample) for sample in own),
        captions=tuple(caption_prompt(sample.caption, recipe.conditioning) for sample in own),
        edits=tuple(prompts) or tuple(caption_prompt(sample.caption, recipe.conditioning) for sample in others),
        truths=tuple(_image(sample) for sample in others),
        seed=recipe.evaluate.seed + 1000 * index,
    )


def _image(sample: Sample) -> Image.Image:
    return Image.fromarray(sample.pixels.permute(1, 2, 0).numpy())


def read_prompts(name: str) -> list[str]:
    """Prompts of a file, or of a list that comes with e4t. Raises ConfigError if there is none or one lacks *s."""
    path = Path(name) if Path(name).exists() else PROMPTS / f"{name}.txt"
    if not path.exists():
        listed = ", ".join(sorted(each.stem for each in PROMPTS.glob("*.txt")))
        raise ConfigError(f"evaluate.prompts {name}: no such file, and not a list that comes with e4t ({listed})")
    prompts = [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if bad := [prompt for prompt in prompts if PLACEHOLDER not in prompt]:
        raise ConfigError(f"{path}: {bad[0]!r} lacks {PLACEHOLDER}, which stands for the concept")
    return prompts
