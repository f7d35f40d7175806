"""Which checkpoint of a run is released: the newest, one by name, or the best by a number that training has logged."""

import json
from pathlib import Path

from e4t import ConfigError
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.manager import CheckpointManager

NEWEST, BEST = "newest", "best"


def select_checkpoint(recipe: Recipe, selector: str = NEWEST, metric: str = "validation_loss") -> Path:
    """The checkpoint that ``which`` means: ``newest``, ``best`` (least ``by``), or a step.

    Raises RunError if there is none, or none that ``by`` was logged for.
    """
    manager = CheckpointManager(recipe.folder / "checkpoints", recipe.pretrain.keep_last)
    if selector == NEWEST:
        latest = manager.latest()
        if latest is None:
            raise RunError(f"{recipe.folder} has no complete checkpoint; run `e4t pretrain` first")
        return latest
    by_step = {int(path.name.partition("_")[2]): path for path in manager.list_complete()}
    available = ", ".join(map(str, by_step)) or "none"
    if selector == BEST:
        metric_values = {
            step: value for step, value in _metric_by_step(recipe.folder, metric).items() if step in by_step
        }
        if not metric_values:
            raise RunError(f"{recipe.folder} has logged no {metric} at a step of its checkpoints ({available})")
        return by_step[min(metric_values, key=lambda step: metric_values[step])]
    step = selector.removeprefix("step_")
    if not step.isdigit():
        raise ConfigError(f"checkpoint {selector!r}: give {NEWEST}, {BEST}, or a step")
    if int(step) not in by_step:
        raise RunError(f"{recipe.folder} has no complete checkpoint of step {int(step)}; there are {available}")
    return by_step[int(step)]


def _metric_by_step(run: Path, name: str) -> dict[int, float]:
    """A number by step; the last one counts where a step was done twice."""
    path = run / "metrics.jsonl"
    lines = (json.loads(line) for line in path.read_text().splitlines()) if path.exists() else ()
    return {line["step"]: float(line[name]) for line in lines if name in line and "step" in line}
