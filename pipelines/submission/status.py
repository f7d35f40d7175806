"""Where everything of a run is: what the scheduler says of its jobs, and what its folders say of themselves."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from data_prep.errors import DataError
from data_prep.manifest import Manifest
from pipelines.errors import RunError
from pipelines.submission.folder import sent, submissions
from pipelines.submission.schedulers import SCHEDULERS


def lines(run: Path) -> Iterator[str]:
    """A line for each job, then for shards, training and release. Raises RunError if it is no run's folder."""
    folders = submissions(run)
    if not folders and not (run / "recipe.yaml").exists():
        raise RunError(f"{run} is no run's folder: it has neither a recipe.yaml nor submissions")
    for folder in folders:
        known = sent(folder)
        if not known:
            yield f"{folder.name}: not sent"
            continue
        state = SCHEDULERS[known.scheduler].state
        for name, ids in known.jobs.items():
            yield f"{folder.name}: {name}  {', '.join(ids)}  {'; '.join(state(job) for job in ids)}"
    recipe = yaml.safe_load(((folders[-1] if folders else run) / "recipe.yaml").read_text())
    yield _shards(recipe["data"]["output"])
    yield _training(run, recipe["pretrain"]["steps"])
    release = run / "release"
    yield f"release    {release if release.exists() else 'none yet'}"


def _shards(output: str) -> str:
    try:
        manifest = Manifest.load(output)
    except DataError:
        return f"shards     {output}: not whole yet"
    return f"shards     {output}: {manifest.kept} pictures, digest {manifest.digest[:12]}"


def _training(run: Path, steps: int) -> str:
    beat = run / "heartbeat.json"
    if not beat.exists():
        return "training   not begun"
    said = json.loads(beat.read_text())
    kept = max((int(path.name.partition("_")[2]) for path in (run / "checkpoints").glob("step_*")), default=0)
    ago = time.time() - said["time"]
    return f"training   step {said['step']} of {steps}, {ago:.0f} s ago on {said['host']}; newest checkpoint {kept}"
