"""SLURM: a submission as sbatch commands; what they run is ``slurm/job.sbatch``, as it stands."""

import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Literal

from encoder.errors import ConfigError
from pipelines.cluster.jobs import RECIPE, Job
from pipelines.cluster.submission import RESUBMIT, Submission
from pipelines.errors import RunError

SCRIPT, SITE = "job.sbatch", "site.sh"
WAITS = '${before:+--dependency="afterok$before" --kill-on-invalid-dep=yes}'
MAX_ARRAY = 1001
"""SLURM's own default of MaxArraySize, where the cluster cannot be asked."""


@dataclass(frozen=True, kw_only=True)
class SlurmSite:
    """What differs from site to site, for a small YAML file of its own."""

    partition: str | None = None
    account: str | None = None
    time: str = "24:00:00"
    """Of each job, as sbatch takes it."""
    devices_per_node: int = 1
    """Ranks of pre-training on a node; one a GPU."""
    gpus: bool = True
    """Ask for a GPU for each of them; false on CPU nodes."""
    cpus_per_device: int = 1
    array_at_once: int = 32
    """The most tasks of an array that run at a time."""
    warn_seconds: int = 300
    """Before the time limit, ranks are told to save; longer than a save takes."""
    requeues: int = 20
    """How often a job that was stopped or killed is started again."""
    launcher: Literal["srun", "torchrun"] = "srun"
    container: Literal["none", "pyxis", "apptainer"] = "none"
    image: str | None = None
    """Of the container: an image reference, or a file."""
    mounts: tuple[str, ...] = ()
    """Of the container, each ``host:inside``; the working directory is there anyway."""
    python: tuple[str, ...] = (sys.executable,)
    """The interpreter that has e4t, as words: unless given, the one that submits, which the nodes must see, too."""
    options: tuple[str, ...] = ()
    """More options of sbatch, each a word: ``--qos=low``, ``--exclusive``."""
    setup: str = ""
    """Shell lines before e4t starts: modules, environments, variables."""

    def __post_init__(self) -> None:
        for name in ("mounts", "python", "options"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if min(self.devices_per_node, self.cpus_per_device, self.array_at_once) < 1 or self.requeues < 0:
            raise ConfigError("site: devices_per_node, cpus_per_device and array_at_once are at least 1, requeues 0")
        if (self.container == "none") != (self.image is None):
            raise ConfigError(f"site: container {self.container} and image {self.image} do not go together")

    @property
    def inside(self) -> list[str]:
        """What stands between srun and the command: srun's own options, or the program that enters a container."""
        here = str(Path.cwd())
        mounts = ",".join((f"{here}:{here}", *self.mounts))
        if self.container == "pyxis":
            return [f"--container-image={self.image}", f"--container-mounts={mounts}", f"--container-workdir={here}"]
        if self.container == "apptainer":
            gpus = ["--nv"] if self.gpus else []
            return ["apptainer", "exec", *gpus, "--bind", mounts, "--pwd", here, str(self.image)]
        return []


Site = SlurmSite


@dataclass(frozen=True)
class Batch:
    """One call of sbatch, which waits until every batch of the job before has ended well."""

    job: str
    options: tuple[str, ...]
    script: tuple[str, ...]
    """And what it is told."""


def batches(jobs: Sequence[Job], site: SlurmSite, folder: Path, run: str, max_array: int = MAX_ARRAY) -> list[Batch]:
    """Calls of sbatch for jobs in their order; an array larger than the cluster takes is several."""
    made = []
    for job in jobs:
        parts = list(_parts(job, max_array))
        for first, count in parts:
            options = [*_options(job, site, folder, run)]
            kind = site.launcher if job.kind == "ranks" else job.kind
            told = [str(folder / SCRIPT), str(folder), kind]
            if job.kind == "array":
                at_once = max(1, site.array_at_once // len(parts))  # the parts run beside each other
                options.append(f"--array=0-{count - 1}%{at_once}")
                told.append(str(first))
            told += job.command(str(folder / RECIPE))
            made.append(Batch(job.name, tuple(options), tuple(told)))
    return made


def _parts(job: Job, max_array: int) -> Iterator[tuple[int, int]]:
    size = job.size if job.kind == "array" else 1
    for first in range(0, size, max_array):
        yield first, min(max_array, size - first)


def _options(job: Job, site: SlurmSite, folder: Path, run: str) -> Iterator[str]:
    number = "%A_%a" if job.kind == "array" else "%j"
    logs = str(folder / "logs" / job.name).replace("%", "%%")
    yield f"--job-name={re.sub(r'[^A-Za-z0-9_.-]+', '-', run)}-{job.name}"
    yield from (f"--output={logs}-{number}.log", "--open-mode=append", "--requeue", f"--time={site.time}")
    yield from (f"--{name}={value}" for name in ("partition", "account") if (value := getattr(site, name)))
    nodes = job.size if job.kind == "ranks" else 1
    devices = site.devices_per_node if job.kind == "ranks" else 1
    tasks = 1 if site.launcher == "torchrun" else devices
    yield from (f"--nodes={nodes}", f"--ntasks-per-node={tasks}")
    yield f"--cpus-per-task={site.cpus_per_device * devices // tasks}"
    if site.gpus and job.computes:
        yield f"--gpus-per-node={devices}"
    if job.kind == "ranks":
        yield f"--signal=USR2@{site.warn_seconds}"
    yield from site.options


def submission(jobs: Sequence[Job], site: SlurmSite, folder: Path, run: str, kept: Mapping[str, str]) -> Submission:
    """Everything that is sent, as files: the script, the site's lines, the commands."""
    made = batches(jobs, site, folder, run, max_array_size())
    return Submission(folder, {**kept, SCRIPT: script(), SITE: site_lines(site), RESUBMIT: commands(made)})


def script() -> str:
    """The job's script as it stands in the repository."""
    return files("slurm").joinpath(SCRIPT).read_text()


def site_lines(site: SlurmSite) -> str:
    """What the script reads of the site, every value quoted, then the site's own lines."""
    lines = [
        f"python=({shlex.join(site.python)})",
        f"container=({shlex.join(site.inside)})",
        f"requeues={site.requeues}",
        f"export DEVICES_PER_NODE={site.devices_per_node}",
        site.setup.rstrip(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def commands(made: Sequence[Batch]) -> str:
    """A shell script that sends everything: what was sent, and how to send it again."""
    lines = ["#!/usr/bin/env bash", "# A job waits until every part of the one before it has ended well."]
    lines += ["set -euo pipefail", "now=''"]
    for job, parts in groupby(made, lambda batch: batch.job):
        lines += ["", "before=$now now=''"]
        for batch in parts:
            words = ["sbatch --parsable", *map(shlex.quote, batch.options), WAITS, shlex.join(batch.script)]
            lines.append('now="$now:$(' + " \\\n    ".join(words) + ')"')
        lines.append(f'echo {job}"$now"')
    return "\n".join(lines) + "\n"


def send(submission: Submission) -> dict[str, list[str]]:
    """Run the submission's own commands. Gives the ids of each job. Raises RunError with what sbatch says."""
    if not shutil.which("sbatch"):
        raise RunError("sbatch is not to be found; submit on a node of the cluster, or look with --dry-run true")
    command = ["bash", str(submission.folder / RESUBMIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    sent = {name: ids for name, *ids in (line.split(":") for line in done.stdout.splitlines())}
    submission.sent("slurm", sent)
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise RunError(f"sbatch refuses {submission.folder.name} ({said}); sent so far: {', '.join(sent) or 'nothing'}")
    return sent


def max_array_size() -> int:
    """The cluster's MaxArraySize; SLURM's default if it cannot be asked."""
    if not shutil.which("scontrol"):
        return MAX_ARRAY
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _said("scontrol", "show", "config"))
    return int(found[1]) if found else MAX_ARRAY


def state(job: str) -> str:
    """How the scheduler says that a job stands; an array's tasks are counted."""
    if not shutil.which("scontrol"):
        return "unknown: no scontrol here"
    states = re.findall(r"JobState=(\w+) Reason=(\S+)", _said("scontrol", "show", "job", job, "--oneliner"))
    said = [name if reason in ("None", "Priority") else f"{name} ({reason})" for name, reason in states]
    if not said and shutil.which("sacct"):  # slurmctld forgets a job minutes after its end
        asked = ("--allocations", "--noheader", "--parsable2", "--format=State")
        said = _said("sacct", f"--jobs={job}", *asked).splitlines()
    counts = [f"{number} {name}" if number > 1 else name for name, number in Counter(said).items()]
    return ", ".join(counts) or "no longer known to SLURM"


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - our own command
