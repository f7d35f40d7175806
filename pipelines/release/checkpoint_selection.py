"""Which checkpoint of a run is released: the newest, one by name, or the best by a number that training has logged."""

import json
from pathlib import Path

from encoder.errors import ConfigError
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.manager import Checkpoints

NEWEST, BEST = "newest", "best"


def chosen(recipe: Recipe, which: str = NEWEST, by: str = "validation_loss") -> Path:
    """The checkpoint that ``which`` means: ``newest``, ``best`` (least ``by``), or a step.

    Raises RunError if there is none, or none that ``by`` was logged for.
    """
    checkpoints = Checkpoints(recipe.folder / "checkpoints", recipe.pretrain.keep)
    if which == NEWEST:
        newest = checkpoints.newest()
        if newest is None:
            raise RunError(f"{recipe.folder} has no complete checkpoint; run `e4t pretrain` first")
        return newest
    whole = {int(path.name.partition("_")[2]): path for path in checkpoints.complete()}
    steps = ", ".join(map(str, whole)) or "none"
    if which == BEST:
        logged = {step: value for step, value in _logged(recipe.folder, by).items() if step in whole}
        if not logged:
            raise RunError(f"{recipe.folder} has logged no {by} at a step of its checkpoints ({steps})")
        return whole[min(logged, key=lambda step: logged[step])]
    step = which.removeprefix("step_")
    if not step.isdigit():
        raise ConfigError(f"checkpoint {which!r}: give {NEWEST}, {BEST}, or a step")
    if int(step) not in whole:
        raise RunError(f"{recipe.folder} has no complete checkpoint of step {int(step)}; there are {steps}")
    return whole[int(step)]


def _logged(run: Path, name: str) -> dict[int, float]:
    """A number by step; the last one counts where a step was done twice."""
    path = run / "metrics.jsonl"
    lines = (json.loads(line) for line in path.read_text().splitlines()) if path.exists() else ()
    return {line["step"]: float(line[name]) for line in lines if name in line and "step" in line}
