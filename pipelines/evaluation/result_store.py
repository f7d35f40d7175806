"""What a system made of a concept, as a folder: nothing is made twice, and nothing half made is taken for whole."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.hashing import sha256_json
from data_prep.storage.atomic import atomic_dir
from encoder.concepts.concept import Concept
from encoder.releases.release import Release
from pipelines.config.evaluation import BASE, System
from pipelines.config.recipe import Recipe
from pipelines.evaluation.cases import Case

_RESULT_FILE, _CONCEPT_DIR = "result.json", "concept"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Pictures of a concept by a system, after each of its numbers of steps."""

    images: dict[int, list[Image.Image]]
    """By tuning steps: one for each of the case's prompts."""
    seconds: dict[int, float]
    """That tuning had taken by then, without sampling; what it goes on after included."""
    peak_gib: float
    """The most memory that tuning held: on the device, or of the process if there is none."""
    concept: Concept | None = None
    """At the last number of steps, if it is a learned word alone."""


class Results:
    """All results of a comparison, in ``<output>/results/<system>/<concept>``."""

    def __init__(self, output: Path, recipe: Recipe, systems: Sequence[System]) -> None:
        """Of systems whose starts are folders, or the bare base."""
        self._folder, self._recipe = output / "results", recipe
        self._systems = {system.name: system for system in systems}

    def _result_dir(self, system: System, case: Case) -> Path:
        return self._folder / system.slug / case.concept

    def digest(self, system: System, case: Case) -> str:
        """Of everything that decides the pictures: a result of another digest is made again."""
        system_settings = asdict(system) | {"name": None, "tuning": asdict(system.tune_config(self._recipe.tune))}
        system_settings["after"] = system.init_from and self.digest(self._systems[system.init_from], case)
        system_settings["start"] = None if system.init == BASE else _release_digest(Path(system.init))
        recipe = {part: asdict(getattr(self._recipe, part)) for part in ("base", "conditioning", "sample")}
        prompts = {"captions": case.captions[: system.num_images], "edits": case.edit_prompts, "seed": case.seed}
        image_digests = case.image_digests[: system.num_images]
        return sha256_json(
            [system_settings, recipe, prompts, image_digests, self._recipe.data.resolution, self._recipe.seed]
        )

    def has(self, system: System, case: Case) -> bool:
        """Whether this result is there, as it would be made now."""
        path = self._result_dir(system, case) / _RESULT_FILE
        return path.exists() and json.loads(path.read_text())["digest"] == self.digest(system, case)

    def save(self, system: System, case: Case, result: Result) -> None:
        """Write a result in place of an outdated one; it appears by rename, when whole."""
        metadata = {"digest": self.digest(system, case), "seconds": result.seconds, "peak_gib": result.peak_gib}
        with atomic_dir(self._result_dir(system, case)) as folder:
            for steps, images in result.images.items():
                (folder / str(steps)).mkdir()
                for index, image in enumerate(images):
                    image.save(folder / str(steps) / f"{index}.png")
            if result.concept:
                result.concept.save(folder / _CONCEPT_DIR)
            (folder / _RESULT_FILE).write_text(json.dumps(metadata, indent=1) + "\n")

    def init_result(self, system: System, case: Case) -> Result | None:
        """What the system goes on after, if it does."""
        return self.load(self._systems[system.init_from], case) if system.init_from else None

    def load(self, system: System, case: Case) -> Result:
        """Read a result that is there."""
        folder = self._result_dir(system, case)
        metadata: dict[str, Any] = json.loads((folder / _RESULT_FILE).read_text())
        return Result(
            images={
                steps: [_read_image(folder / str(steps) / f"{index}.png") for index in range(len(case.prompts))]
                for steps in system.steps
            },
            seconds={int(steps): seconds for steps, seconds in metadata["seconds"].items()},
            peak_gib=metadata["peak_gib"],
            concept=Concept.load(folder / _CONCEPT_DIR) if (folder / _CONCEPT_DIR).exists() else None,
        )


@cache
def _release_digest(folder: Path) -> str:
    return Release.open(folder).content_digest


def _read_image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
