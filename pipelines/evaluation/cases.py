"""Held-out concepts: what they are tuned on, and what is then asked of them."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from data_prep.stream.stream import Sample, ShardReader
from e4t import ConfigError
from encoder.config import PLACEHOLDER
from encoder.model.conditioning import caption_prompt
from pipelines.config.recipe import Recipe

PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True, eq=False)
class Case:
    """A concept that nothing was trained on."""

    concept: str
    images: tuple[Image.Image, ...]
    """To tune on; the first is what similarity is measured to."""
    captions: tuple[str, ...]
    """Theirs, with *s for the concept."""
    edit_prompts: tuple[str, ...]
    """What is asked, with *s."""
    reference_images: tuple[Image.Image, ...]
    """What each edit truly looks like; none if nobody knows."""
    seed: int
    """Of tuning and sampling."""

    @property
    def prompts(self) -> list[str]:
        """What every system paints: the first picture's own caption, then the edits."""
        return [self.captions[0], *self.edit_prompts]

    @cached_property
    def image_digests(self) -> list[str]:
        """Sha256 of each picture's pixels."""
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in self.images]


def choose_cases(recipe: Recipe, num_images: int) -> list[Case]:
    """Concepts with ``pictures`` pictures to tune on; the same for equal recipes.

    Raises ConfigError if no concept of the split has enough pictures.
    """
    config = recipe.evaluate
    needed = num_images + (0 if config.prompts else config.num_prompts)
    reader = ShardReader(recipe.data.output, config.split, recipe.stream)
    locations: dict[str, list[tuple[int, int]]] = {}
    for shard, count in enumerate(reader.counts):
        for row in range(count):
            locations.setdefault(reader.metadata(shard, row).identity, []).append((shard, row))
    eligible = sorted(name for name, of_it in locations.items() if len(of_it) >= needed)
    if not eligible:
        raise ConfigError(
            f"no concept of {recipe.data.output}'s {config.split} split has {needed} pictures, {num_images} of them to "
            "tune on; give systems fewer pictures, evaluate.num_prompts fewer, or evaluate.prompts"
        )
    rng = random.Random(f"evaluate-{config.seed}")
    chosen = rng.sample(eligible, min(config.num_concepts, len(eligible)))
    prompt_list = read_prompts(config.prompts) if config.prompts else []
    edit_prompts = [rng.sample(prompt_list, min(config.num_prompts, len(prompt_list))) for _ in chosen]
    concept_samples = ([reader.read(*place) for place in locations[name][:needed]] for name in chosen)
    triples = enumerate(zip(concept_samples, edit_prompts, strict=True))
    return [_case(recipe, samples, num_images, prompts, index) for index, (samples, prompts) in triples]


def _case(recipe: Recipe, samples: Sequence[Sample], num_images: int, prompts: Sequence[str], index: int) -> Case:
    """Of a concept's samples: the first ones are tuned on; the next ones are asked for, unless there are prompts."""
    tuning_samples, edit_samples = samples[:num_images], samples[num_images:]
    return Case(
        concept=samples[0].identity,
        images=tuple(_to_image(sample) for sample in tuning_samples),
        captions=tuple(caption_prompt(sample.caption, recipe.conditioning) for sample in tuning_samples),
        edit_prompts=tuple(prompts)
        or tuple(caption_prompt(sample.caption, recipe.conditioning) for sample in edit_samples),
        reference_images=tuple(_to_image(sample) for sample in edit_samples),
        seed=recipe.evaluate.seed + 1000 * index,
    )


def _to_image(sample: Sample) -> Image.Image:
    return Image.fromarray(sample.pixels.permute(1, 2, 0).numpy())


def read_prompts(name: str) -> list[str]:
    """Prompts of a file, or of a list that comes with e4t. Raises ConfigError if there is none or one lacks *s."""
    path = Path(name) if Path(name).exists() else PROMPTS / f"{name}.txt"
    if not path.exists():
        available = ", ".join(sorted(each.stem for each in PROMPTS.glob("*.txt")))
        raise ConfigError(f"evaluate.prompts {name}: no such file, and not a list that comes with e4t ({available})")
    prompts = [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if bad := [prompt for prompt in prompts if PLACEHOLDER not in prompt]:
        raise ConfigError(f"{path}: {bad[0]!r} lacks {PLACEHOLDER}, which stands for the concept")
    return prompts
