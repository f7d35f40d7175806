"""Evaluation cases: held-out concepts with images to tune on, prompts and reference images."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from data_prep.shards.reader import Sample, ShardReader
from e4t_errors import ConfigError
from encoder.model.conditioning import caption_prompt
from encoder.placeholder import PLACEHOLDER, has_placeholder
from pipelines.config.recipe import Recipe

PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True, eq=False)
class Case:
    """A held-out concept: the images to tune on, and the prompts to evaluate."""

    concept: str
    images: tuple[Image.Image, ...]
    """Images to tune on; similarity is measured to the first."""
    captions: tuple[str, ...]
    """Captions of ``images``, with *s in place of the concept."""
    edit_prompts: tuple[str, ...]
    """Prompts to generate edits for, with *s in place of the concept."""
    reference_images: tuple[Image.Image, ...]
    """The true image of each edit prompt; empty if the prompts do not come from the dataset."""
    seed: int
    """Seed of tuning and sampling."""

    @property
    def prompts(self) -> list[str]:
        """All prompts to generate: the caption of the first image, then the edit prompts."""
        return [self.captions[0], *self.edit_prompts]

    @cached_property
    def image_digests(self) -> list[str]:
        """SHA-256 of the pixels of each image."""
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in self.images]


def choose_cases(recipe: Recipe, num_images: int) -> list[Case]:
    """Choose concepts with ``num_images`` images to tune on; equal recipes choose the same.

    Raises ConfigError if no concept of the split has enough images.
    """
    config = recipe.evaluate
    needed = num_images + (0 if config.prompts else config.num_prompts)
    reader = ShardReader(recipe.data.output, config.split, recipe.stream)
    locations: dict[str, list[tuple[int, int]]] = {}
    for shard, count in enumerate(reader.counts):
        for row in range(count):
            locations.setdefault(reader.metadata(shard, row).identity, []).append((shard, row))
    eligible = sorted(name for name, samples in locations.items() if len(samples) >= needed)
    if not eligible:
        raise ConfigError(
            f"no concept of {recipe.data.output}'s {config.split} split has {needed} images, {num_images} of them to "
            "tune on; lower num_images of the systems or evaluate.num_prompts, or set evaluate.prompts"
        )
    rng = random.Random(f"evaluate-{config.seed}")
    chosen = rng.sample(eligible, min(config.num_concepts, len(eligible)))
    prompt_list = read_prompts(config.prompts) if config.prompts else []
    edit_prompts = [rng.sample(prompt_list, min(config.num_prompts, len(prompt_list))) for _ in chosen]
    concept_samples = ([reader.read(*location) for location in locations[name][:needed]] for name in chosen)
    pairs = enumerate(zip(concept_samples, edit_prompts, strict=True))
    return [_build_case(recipe, samples, num_images, prompts, index) for index, (samples, prompts) in pairs]


def _build_case(recipe: Recipe, samples: Sequence[Sample], num_images: int, prompts: Sequence[str], index: int) -> Case:
    """Build a case: tune on the first samples; edit prompts are the captions of the next ones unless some are given."""
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
    """Read prompts from a file or from a list that comes with e4t.

    Raises ConfigError if there is no such list or a prompt lacks *s.
    """
    path = Path(name) if Path(name).exists() else PROMPTS / f"{name}.txt"
    if not path.exists():
        available = ", ".join(sorted(each.stem for each in PROMPTS.glob("*.txt")))
        raise ConfigError(f"evaluate.prompts {name}: no such file, and no prompt list of e4t ({available})")
    prompts = [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if bad := [prompt for prompt in prompts if not has_placeholder(prompt)]:
        raise ConfigError(f"{path}: {bad[0]!r} lacks {PLACEHOLDER}, the placeholder of the concept; add it")
    return prompts
