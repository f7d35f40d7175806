"""Status of a run: its jobs as the scheduler reports them, and the outputs of each stage."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import yaml

from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest
from pipelines.cluster.schedulers import SCHEDULERS
from pipelines.cluster.submission import list_submissions, load_submitted_jobs
from pipelines.config.renamed import check_recipe_names
from pipelines.errors import RunError


def run_status_lines(run: Path) -> Iterator[str]:
    """Yield a line for each job, with the error of failed ones, then a line for the output of each stage.

    Raises RunError if the folder is not a run folder, and ConfigError if an earlier version of e4t wrote it.
    """
    folders = list_submissions(run)
    if not folders and not (run / "recipe.yaml").exists():
        raise RunError(f"{run} is not a run folder: it has neither a recipe.yaml nor submissions")
    for folder in folders:
        submitted = load_submitted_jobs(folder)
        if not submitted:
            yield f"{folder.name}: not submitted"
            continue
        job_status = SCHEDULERS[submitted.scheduler].job_status
        for name, ids in submitted.jobs.items():
            status = "; ".join(job_status(job) for job in ids)
            yield f"{folder.name}: {name}  {', '.join(ids)}  {status}"
            if "failed" in status.lower():
                yield f"    {_last_error_line(folder / 'logs', name)}"
    path = (folders[-1] if folders else run) / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    check_recipe_names(recipe, f"recipe {path}")
    yield _shards_line(recipe["data"]["output"])
    yield _training_line(run, recipe["pretrain"]["max_steps"])
    for output_name in ("evaluation", "release"):
        yield f"{output_name:<10} {run / output_name if (run / output_name).exists() else 'not yet written'}"


def _last_error_line(logs: Path, job: str) -> str:
    """Return the last line that e4t itself wrote to the logs of a job, or where the logs are if there is none."""
    paths = sorted(logs.glob(f"{job}-*.log"), key=lambda path: path.stat().st_mtime)
    lines = [line for path in paths for line in path.read_text(errors="replace").splitlines()]
    messages = [line for line in lines if line.startswith("e4t: ")]
    return messages[-1] if messages else f"see {paths[-1]}" if paths else "see kubectl logs"


def _shards_line(output: str) -> str:
    try:
        manifest = Manifest.load(output)
    except DataError:
        return f"shards     {output}: not complete"
    return f"shards     {output}: {manifest.kept} images, digest {manifest.digest[:12]}"


def _training_line(run: Path, steps: int) -> str:
    heartbeat_path = run / "heartbeat.json"
    if not heartbeat_path.exists():
        return "training   not started"
    heartbeat = json.loads(heartbeat_path.read_text())
    latest_step = max((int(path.name.partition("_")[2]) for path in (run / "checkpoints").glob("step_*")), default=0)
    if latest_step >= steps:
        return f"training   all {steps} steps done; latest checkpoint {latest_step}"
    ago = timedelta(seconds=int(time.time() - heartbeat["time"]))
    where = f"{ago} ago on {heartbeat['host']}"
    return f"training   step {heartbeat['step']} of {steps}, {where}; latest checkpoint {latest_step}"
