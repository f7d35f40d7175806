"""``e4t evaluate``: held-out drawn people, tuned with and without pre-training, against base and truth."""

import json
import multiprocessing
import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from data_prep.faces import DOMAIN_WORD, Identity, Scene, draw
from data_prep.files import write_whole
from data_prep.stream import Sample, ShardReader
from encoder.config import PLACEHOLDER
from encoder.metrics import ClipScorer, similarity
from encoder.pipeline import E4TPipeline, to_pixels
from pipelines.attributes import IDENTITY, SCENE, AttributeReader, agreement, truth
from pipelines.config import Recipe
from pipelines.quiet import quiet_worker
from pipelines.sampling import labelled_grid

SYSTEMS = ("pretrained", "untrained")


@dataclass
class Case:
    """A held-out person: the one picture, the edits, and what every system made."""

    person: str
    caption: str
    picture: Image.Image
    edits: list[Scene]
    truths: list[Image.Image]
    base: list[Image.Image] = field(default_factory=list)
    """From the caption, then from each edit's prompt."""
    made: dict[str, dict[int, list[Image.Image]]] = field(default_factory=dict)
    """By system and tuning steps: the person, then each edit."""


def evaluate(
    recipe: Recipe, release: Path, output: Path, on_case: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Personalise held-out people; write ``grid.png`` and ``report.json`` and return the report.

    Two processes share the work; the result does not depend on how many there are.
    """
    cases = choose_cases(recipe)
    workers = max(1, min(os.cpu_count() or 1, len(cases)))
    done: dict[int, Case] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), quiet_worker) as pool:
        futures = {
            pool.submit(_personalise, recipe, release, case, recipe.evaluate.seed + 1000 * index): index
            for index, case in enumerate(cases)
        }
        for count, future in enumerate(as_completed(futures), 1):
            done[futures[future]] = future.result()
            if on_case:
                on_case(count, len(cases))
    cases = [done[index] for index in range(len(cases))]
    report = score(recipe, cases)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "report.json", json.dumps(report, indent=1) + "\n")
    picture(recipe, cases).save(output / "grid.png")
    return report


def choose_cases(recipe: Recipe) -> list[Case]:
    """The first picture of randomly chosen test identities, with edits of expression, clothes and background."""
    config = recipe.evaluate
    first: dict[str, Sample] = {}
    for sample in ShardReader(recipe.data.output, "test", recipe.stream):
        first.setdefault(sample.identity, sample)
    rng = random.Random(f"evaluate-{config.seed}")
    people = rng.sample(sorted(first), min(config.identities, len(first)))
    return [_case(first[person], config.edits, rng) for person in people]


def _case(sample: Sample, edits: int, rng: random.Random) -> Case:
    scenes: list[Scene] = []
    while len(scenes) < edits:
        scene = Scene.random(rng)
        if all(word not in sample.caption.split() for word in (scene.expression, scene.clothes, scene.background)):
            scenes.append(Scene(expression=scene.expression, clothes=scene.clothes, background=scene.background))
    size = sample.pixels.shape[-1]
    truths = [draw(Identity.parse(sample.identity), scene, size) for scene in scenes]
    image = Image.fromarray(sample.pixels.permute(1, 2, 0).numpy())
    return Case(sample.identity, sample.caption, image, scenes, truths)


_pipelines: dict[str, E4TPipeline] = {}


def _pipeline(recipe: Recipe, release: Path, system: str) -> E4TPipeline:
    """A worker's own pipeline, made once: the release, or the same with nothing pre-trained; tuned by the recipe."""
    if system not in _pipelines:
        _pipelines[system] = E4TPipeline.from_pretrained(release) if system == "pretrained" else _untrained(recipe)
        _pipelines[system].tune_config = recipe.tune
    return _pipelines[system]


def _untrained(recipe: Recipe) -> E4TPipeline:
    return E4TPipeline.untrained(
        recipe.base,
        recipe.conditioning,
        hidden_width=recipe.pretrain.hidden_width,
        seed=recipe.seed,
        sample_config=recipe.sample,
    )


def _personalise(recipe: Recipe, release: Path, case: Case, seed: int) -> Case:
    prompts = [scene.caption(f"a {{expression}} {PLACEHOLDER}") for scene in case.edits]
    plain = [prompt.replace(PLACEHOLDER, DOMAIN_WORD) for prompt in prompts]
    case.base = _pipeline(recipe, release, "untrained")([case.caption, *plain], seed=seed)
    for system in SYSTEMS:
        pipe = _pipeline(recipe, release, system)
        caption = pipe.conditioning.caption_prompt(case.caption)
        case.made[system] = {}
        concepts = pipe.tune_at(case.picture, recipe.evaluate.steps, seed=seed, caption=caption)
        for steps, concept in zip(recipe.evaluate.steps, concepts, strict=True):
            pipe.load_concept(concept)
            case.made[system][steps] = pipe([caption, *prompts], seed=seed)
        pipe.unload_concept()
    return case


def score(recipe: Recipe, cases: list[Case]) -> dict[str, Any]:
    """Means over people.

    ``identity``: CLIP similarity to the one picture; ``person``: share of the person's attributes that are right there;
    ``edit``: CLIP similarity of the edits to the true edits; ``edit person``: share of the person's attributes kept in
    the edits; ``obedience``: share of the edits' expression, clothes and background that are there.
    """
    scorer = Scorer(recipe)
    systems = {"base from the caption": scorer.row(cases, [case.base for case in cases])}
    for system in SYSTEMS:
        for steps in recipe.evaluate.steps:
            systems[f"{system}, {steps} steps"] = scorer.row(cases, [case.made[system][steps] for case in cases])
    systems["the true pictures"] = scorer.row(cases, [[case.picture, *case.truths] for case in cases])
    return {
        "people": [case.person for case in cases],
        "edits": [[scene.caption(f"a {{expression}} {PLACEHOLDER}") for scene in case.edits] for case in cases],
        "systems": systems,
    }


class Scorer:
    """The CLIP and the attribute reader behind the numbers."""

    def __init__(self, recipe: Recipe) -> None:
        self.clip = ClipScorer(recipe.base.clip or f"{recipe.base.model}/clip")
        self.reader = AttributeReader.load(recipe.base.model)
        self.size = recipe.data.resolution

    def row(self, cases: list[Case], made: list[list[Image.Image]]) -> dict[str, float]:
        """One system's means over the cases, given what it made for each."""
        pairs = zip(cases, made, strict=True)
        rows = [self._case(case, self._pixels(images)) for case, images in pairs]
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    def _pixels(self, images: list[Image.Image]) -> Tensor:
        return torch.cat([to_pixels(image, self.size) for image in images])

    def _case(self, case: Case, made: Tensor) -> dict[str, float]:
        wanted = self._pixels([case.picture, *case.truths])
        alike = similarity(self.clip.pictures(made), self.clip.pictures(wanted))
        read = self.reader.read(made)
        known = [truth(Identity.parse(case.person), scene) for scene in case.edits]
        edits = list(zip(read[1:], known, strict=True))
        return {
            "identity": float(alike[0]),
            "person": agreement(read[0], known[0], list(IDENTITY)),
            "edit": float(alike[1:].mean()),
            "edit person": sum(agreement(r, k, list(IDENTITY)) for r, k in edits) / len(edits),
            "obedience": sum(agreement(r, k, list(SCENE)) for r, k in edits) / len(edits),
        }


def picture(recipe: Recipe, cases: list[Case]) -> Image.Image:
    """The grid: input, base, before and after tuning, edits, true edits."""
    last = recipe.evaluate.steps[-1]
    edits = range(recipe.evaluate.edits)
    labels = ["the one picture", "base, from\nits caption"]
    labels += ["before tuning" if steps == 0 else f"after {steps} steps" for steps in recipe.evaluate.steps]
    labels += [f"edit {edit + 1}" for edit in edits] + [f"true edit {edit + 1}" for edit in edits]
    rows = []
    for case in cases[: recipe.evaluate.grid_rows]:
        made = case.made["pretrained"]
        rows.append(
            [
                case.picture,
                case.base[0],
                *(made[steps][0] for steps in recipe.evaluate.steps),
                *made[last][1:],
                *case.truths,
            ]
        )
    return labelled_grid(rows, labels)
