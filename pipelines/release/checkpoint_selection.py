"""Select the checkpoint to release: the latest, the best by a logged metric, or a given step."""

import json
from pathlib import Path

from e4t_errors import ConfigError
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.manager import CheckpointManager

LATEST, BEST = "latest", "best"


def select_checkpoint(recipe: Recipe, selector: str = LATEST, metric: str = "validation_loss") -> Path:
    """Return the checkpoint for ``selector``: ``latest``, ``best`` (lowest ``metric``), or a step.

    Raises ConfigError for another selector; RunError if there is no such checkpoint, or ``metric`` was not logged at
    the step of any checkpoint.
    """
    manager = CheckpointManager(recipe.folder / "checkpoints", recipe.pretrain.keep_last)
    if selector == LATEST:
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
            raise RunError(
                f"{recipe.folder} has not logged {metric} at the step of a checkpoint ({available}); choose "
                "another --metric"
            )
        return by_step[min(metric_values, key=lambda step: metric_values[step])]
    step = selector.removeprefix("step_")
    if not step.isdigit():
        raise ConfigError(f"checkpoint {selector!r}: give {LATEST}, {BEST}, or a step")
    if int(step) not in by_step:
        raise RunError(f"{recipe.folder} has no complete checkpoint of step {int(step)}; available: {available}")
    return by_step[int(step)]


def _metric_by_step(run: Path, name: str) -> dict[int, float]:
    """Read a metric by step; if a step was logged more than once, the last value counts."""
    path = run / "metrics.jsonl"
    lines = (json.loads(line) for line in path.read_text().splitlines()) if path.exists() else ()
    return {line["step"]: float(line[name]) for line in lines if name in line and "step" in line}
