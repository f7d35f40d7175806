"""Where everything of a run is: what the scheduler says of its jobs, and what its folders say of themselves."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import yaml

from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest
from pipelines.cluster.schedulers import SCHEDULERS
from pipelines.cluster.submission import sent, submissions
from pipelines.errors import RunError


def lines(run: Path) -> Iterator[str]:
    """A line for each job, what those that failed have said, then a line for what each stage leaves.

    Raises RunError if it is no run's folder.
    """
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
            stands = "; ".join(state(job) for job in ids)
            yield f"{folder.name}: {name}  {', '.join(ids)}  {stands}"
            if "failed" in stands.lower():
                yield f"    {_complaint(folder / 'logs', name)}"
    recipe = yaml.safe_load(((folders[-1] if folders else run) / "recipe.yaml").read_text())
    yield _shards(recipe["data"]["output"])
    yield _training(run, recipe["pretrain"]["steps"])
    for made in ("evaluation", "release"):
        yield f"{made:<10} {run / made if (run / made).exists() else 'none yet'}"


def _complaint(logs: Path, job: str) -> str:
    """The last line of a job's logs that e4t itself has said; where they are if there is none."""
    paths = sorted(logs.glob(f"{job}-*.log"), key=lambda path: path.stat().st_mtime)
    lines = [line for path in paths for line in path.read_text(errors="replace").splitlines()]
    said = [line for line in lines if line.startswith("e4t: ")]
    return said[-1] if said else f"see {paths[-1]}" if paths else "see kubectl logs"


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
    if kept >= steps:
        return f"training   all {steps} steps done; newest checkpoint {kept}"
    ago = timedelta(seconds=int(time.time() - said["time"]))
    return f"training   step {said['step']} of {steps}, {ago} ago on {said['host']}; newest checkpoint {kept}"
