"""The folder of a submission: the resolved recipe, the state of the code, the files that were sent and the job ids."""

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
    """Everything that is sent to a scheduler, as files of the folder ``<run>/submissions/<number>-<stage>``."""

    folder: Path
    files: Mapping[str, str]
    """Text of each file, by file name."""

    def write(self) -> None:
        """Write all files; the folder appears when it is complete."""
        with atomic_dir(self.folder) as folder:
            (folder / "logs").mkdir()
            for name, text in self.files.items():
                atomic_write(folder / name, text)

    def record_job_ids(self, scheduler: str, jobs: Mapping[str, list[str]]) -> None:
        """Write the scheduler's ids of each job to jobs.json."""
        atomic_write(self.folder / JOBS_FILE, json.dumps({"scheduler": scheduler, "jobs": jobs}, indent=1) + "\n")


@dataclass(frozen=True)
class SubmittedJobs:
    """Jobs of a submission that were sent to a scheduler."""

    scheduler: str
    jobs: Mapping[str, list[str]]
    """Ids that the scheduler assigned to each job, by job name."""


class StrictDumper(yaml.SafeDumper):
    """YAML dumper whose strings are strings for every YAML reader; PyYAML itself writes ``1e5`` and ``n`` unquoted."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Quote ambiguous strings, and write several lines as a literal block."""
        style = '"' if _AMBIGUOUS_SCALAR.fullmatch(data) else "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def ignore_aliases(self, data: object) -> bool:
        """Write repeated values in full, without YAML anchors."""
        return True


StrictDumper.add_representer(str, StrictDumper.represent_str)


def next_folder(recipe: Recipe, stage: str) -> Path:
    """Return the folder of the next submission of a run."""
    numbers = [int(name) for name, _, _ in (path.name.partition("-") for path in list_submissions(recipe.folder))]
    return (recipe.folder / SUBMISSIONS_DIR / f"{max(numbers, default=0) + 1:03d}-{stage}").resolve()


def list_submissions(run: Path) -> list[Path]:
    """Return the submission folders of a run, oldest first."""
    return sorted(path for path in (run / SUBMISSIONS_DIR).glob("[0-9]*-*") if path.is_dir())


def snapshot_files(recipe: Recipe) -> dict[str, str]:
    """Return the files of every submission: the recipe with all settings, and the revision and diff of the code."""
    return {
        RECIPE_FILE: yaml.dump(recipe.to_dict(), Dumper=StrictDumper, sort_keys=False, allow_unicode=True),
        "code.json": json.dumps({"revision": code_revision()}) + "\n",
        "code.diff": code_diff(),
    }


def load_submitted_jobs(folder: Path) -> SubmittedJobs | None:
    """Read the jobs of a submission; None if none was sent."""
    path = folder / JOBS_FILE
    return SubmittedJobs(**json.loads(path.read_text())) if path.exists() else None
