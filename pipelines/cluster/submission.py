"""A submission's folder in the run: the recipe as resolved, the code as it was, what was sent and how to again."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from data_prep.storage.atomic import atomic_dir, atomic_write
from pipelines.cluster.jobs import RECIPE_FILE
from pipelines.config.recipe import Recipe
from pipelines.tracking.environment import code_diff, code_revision

SUBMISSIONS_DIR, JOBS_FILE, SUBMIT_SCRIPT = "submissions", "jobs.json", "submit.sh"
_AMBIGUOUS_SCALAR = re.compile(r"[-+.\deE_]+|[yYnN]|.*[\x85\u2028\u2029\ufeff].*", re.DOTALL)


@dataclass(frozen=True)
class Submission:
    """``runs/<name>/submissions/<number>-<stage>``."""

    folder: Path
    files: Mapping[str, str]
    """What lies there, by name."""

    def write(self) -> None:
        """Write every file; the folder appears when it is whole."""
        with atomic_dir(self.folder) as folder:
            (folder / "logs").mkdir()
            for name, text in self.files.items():
                atomic_write(folder / name, text)

    def record_job_ids(self, scheduler: str, jobs: Mapping[str, list[str]]) -> None:
        """Note the scheduler's ids of each job."""
        atomic_write(self.folder / JOBS_FILE, json.dumps({"scheduler": scheduler, "jobs": jobs}, indent=1) + "\n")


@dataclass(frozen=True)
class SubmittedJobs:
    """What of a submission a scheduler knows."""

    scheduler: str
    jobs: Mapping[str, list[str]]
    """Its ids of each job, by the job's name."""


class StrictDumper(yaml.SafeDumper):
    """YAML that every reader takes for what was meant; PyYAML by itself writes ``1e5`` and ``n`` bare."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """In quotes if need be; several lines as they stand."""
        style = '"' if _AMBIGUOUS_SCALAR.fullmatch(data) else "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def ignore_aliases(self, data: object) -> bool:
        """What is said twice is written twice."""
        return True


StrictDumper.add_representer(str, StrictDumper.represent_str)


def next_folder(recipe: Recipe, stage: str) -> Path:
    """Where the next submission of a run goes."""
    numbers = [int(name) for name, _, _ in (path.name.partition("-") for path in list_submissions(recipe.folder))]
    return (recipe.folder / SUBMISSIONS_DIR / f"{max(numbers, default=0) + 1:03d}-{stage}").resolve()


def list_submissions(run: Path) -> list[Path]:
    """Submission folders of a run, in their order."""
    return sorted(path for path in (run / SUBMISSIONS_DIR).glob("[0-9]*-*") if path.is_dir())


def snapshot_files(recipe: Recipe) -> dict[str, str]:
    """What every submission keeps: the recipe with every setting, and the code that it was sent from."""
    return {
        RECIPE_FILE: yaml.dump(recipe.to_dict(), Dumper=StrictDumper, sort_keys=False, allow_unicode=True),
        "code.json": json.dumps({"revision": code_revision()}) + "\n",
        "code.diff": code_diff(),
    }


def load_submitted_jobs(folder: Path) -> SubmittedJobs | None:
    """What was sent of a submission; None if nothing was."""
    path = folder / JOBS_FILE
    return SubmittedJobs(**json.loads(path.read_text())) if path.exists() else None
