"""Store the generated images of each system and concept in a folder, so that interrupted comparisons resume."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.config_dict import sha256_json
from data_prep.storage.atomic import atomic_dir
from encoder.concepts.concept import Concept
from encoder.releases.release import Release
from pipelines.config.evaluation import BASE, System
from pipelines.config.recipe import Recipe
from pipelines.evaluation.cases import Case

_RESULT_FILE, _CONCEPT_DIR = "result.json", "concept"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Images of one concept by one system, after each of its numbers of tuning steps."""

    images: dict[int, list[Image.Image]]
    """Images by tuning steps, one for each prompt of the case."""
    seconds: dict[int, float]
    """Tuning time by tuning steps, without sampling; includes the time of the system that it was initialized from."""
    peak_gib: float
    """Peak memory of tuning in GiB: of the GPU, or of the process on a CPU."""
    concept: Concept | None = None
    """Concept after the largest number of steps; stored only if it consists of a token embedding alone."""


class Results:
    """All results of a comparison, stored in ``<output>/results/<system>/<concept>``."""

    def __init__(self, output: Path, recipe: Recipe, systems: Sequence[System]) -> None:
        """``systems`` must be initialized from release folders or from the base model."""
        self._folder, self._recipe = output / "results", recipe
        self._systems = {system.name: system for system in systems}

    def _result_dir(self, system: System, case: Case) -> Path:
        return self._folder / system.slug / case.concept

    def digest(self, system: System, case: Case) -> str:
        """Return a digest of everything that determines the images; a result with another digest is computed again."""
        system_settings = asdict(system) | {"name": None, "tuning": asdict(system.tune_config(self._recipe.tune))}
        system_settings["init_from"] = system.init_from and self.digest(self._systems[system.init_from], case)
        system_settings["init"] = None if system.init == BASE else _release_digest(Path(system.init))
        recipe = {part: asdict(getattr(self._recipe, part)) for part in ("base", "conditioning", "sample")}
        prompts = {"captions": case.captions[: system.num_images], "edits": case.edit_prompts, "seed": case.seed}
        image_digests = case.image_digests[: system.num_images]
        return sha256_json(
            [system_settings, recipe, prompts, image_digests, self._recipe.data.resolution, self._recipe.seed]
        )

    def has(self, system: System, case: Case) -> bool:
        """Return whether the result exists with the current digest."""
        path = self._result_dir(system, case) / _RESULT_FILE
        return path.exists() and json.loads(path.read_text())["digest"] == self.digest(system, case)

    def save(self, system: System, case: Case, result: Result) -> None:
        """Write a result atomically, replacing an outdated one."""
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
        """Return the result that the system is initialized from; None if it is not initialized from another system."""
        return self.load(self._systems[system.init_from], case) if system.init_from else None

    def load(self, system: System, case: Case) -> Result:
        """Read an existing result."""
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
