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

from e4t import ConfigError
from pipelines.cluster.jobs import RECIPE_FILE, Job
from pipelines.cluster.submission import SUBMIT_SCRIPT, Submission
from pipelines.errors import RunError

JOB_SCRIPT, SITE_FILE = "job.sbatch", "site.sh"
DEPENDENCY = '${before:+--dependency="afterok$before" --kill-on-invalid-dep=yes}'
DEFAULT_MAX_ARRAY_SIZE = 1001
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
    max_parallel_tasks: int = 32
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
        if min(self.devices_per_node, self.cpus_per_device, self.max_parallel_tasks) < 1 or self.requeues < 0:
            raise ConfigError(
                "site: devices_per_node, cpus_per_device and max_parallel_tasks are at least 1, requeues 0"
            )
        if (self.container == "none") != (self.image is None):
            raise ConfigError(f"site: container {self.container} and image {self.image} do not go together")

    @property
    def container_args(self) -> list[str]:
        """What stands between srun and the command: srun's own options, or the program that enters a container."""
        workdir = str(Path.cwd())
        mounts = ",".join((f"{workdir}:{workdir}", *self.mounts))
        if self.container == "pyxis":
            return [f"--container-image={self.image}", f"--container-mounts={mounts}", f"--container-workdir={workdir}"]
        if self.container == "apptainer":
            gpus = ["--nv"] if self.gpus else []
            return ["apptainer", "exec", *gpus, "--bind", mounts, "--pwd", workdir, str(self.image)]
        return []


Site = SlurmSite


@dataclass(frozen=True)
class SbatchCall:
    """One call of sbatch, which waits until every batch of the job before has ended well."""

    job: str
    options: tuple[str, ...]
    command: tuple[str, ...]
    """And what it is told."""


def sbatch_calls(
    jobs: Sequence[Job], site: SlurmSite, folder: Path, run_name: str, max_array: int = DEFAULT_MAX_ARRAY_SIZE
) -> list[SbatchCall]:
    """Calls of sbatch for jobs in their order; an array larger than the cluster takes is several."""
    calls = []
    for job in jobs:
        parts = list(_split_array(job, max_array))
        for first, count in parts:
            options = [*_sbatch_options(job, site, folder, run_name)]
            kind = site.launcher if job.kind == "ranks" else job.kind
            command = [str(folder / JOB_SCRIPT), str(folder), kind]
            if job.kind == "array":
                max_parallel = max(1, site.max_parallel_tasks // len(parts))  # the parts run beside each other
                options.append(f"--array=0-{count - 1}%{max_parallel}")
                command.append(str(first))
            command += job.command(str(folder / RECIPE_FILE))
            calls.append(SbatchCall(job.name, tuple(options), tuple(command)))
    return calls


def _split_array(job: Job, max_array: int) -> Iterator[tuple[int, int]]:
    size = job.size if job.kind == "array" else 1
    for first in range(0, size, max_array):
        yield first, min(max_array, size - first)


def _sbatch_options(job: Job, site: SlurmSite, folder: Path, run_name: str) -> Iterator[str]:
    number = "%A_%a" if job.kind == "array" else "%j"
    logs = str(folder / "logs" / job.name).replace("%", "%%")
    yield f"--job-name={re.sub(r'[^A-Za-z0-9_.-]+', '-', run_name)}-{job.name}"
    yield from (f"--output={logs}-{number}.log", "--open-mode=append", "--requeue", f"--time={site.time}")
    yield from (f"--{name}={value}" for name in ("partition", "account") if (value := getattr(site, name)))
    nodes = job.size if job.kind == "ranks" else 1
    devices = site.devices_per_node if job.kind == "ranks" else 1
    tasks = 1 if site.launcher == "torchrun" else devices
    yield from (f"--nodes={nodes}", f"--ntasks-per-node={tasks}")
    yield f"--cpus-per-task={site.cpus_per_device * devices // tasks}"
    if site.gpus and job.needs_gpu:
        yield f"--gpus-per-node={devices}"
    if job.kind == "ranks":
        yield f"--signal=USR2@{site.warn_seconds}"
    yield from site.options


def build_submission(
    jobs: Sequence[Job], site: SlurmSite, folder: Path, run_name: str, snapshot: Mapping[str, str]
) -> Submission:
    """Everything that is sent, as files: the script, the site's lines, the commands."""
    calls = sbatch_calls(jobs, site, folder, run_name, max_array_size())
    return Submission(
        folder,
        {
            **snapshot,
            JOB_SCRIPT: read_job_script(),
            SITE_FILE: render_site_script(site),
            SUBMIT_SCRIPT: render_submit_script(calls),
        },
    )


def read_job_script() -> str:
    """The job's script as it stands in the repository."""
    return files("slurm").joinpath(JOB_SCRIPT).read_text()


def render_site_script(site: SlurmSite) -> str:
    """What the script reads of the site, every value quoted, then the site's own lines."""
    lines = [
        f"python=({shlex.join(site.python)})",
        f"container=({shlex.join(site.container_args)})",
        f"requeues={site.requeues}",
        f"export DEVICES_PER_NODE={site.devices_per_node}",
        site.setup.rstrip(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def render_submit_script(calls: Sequence[SbatchCall]) -> str:
    """A shell script that sends everything: what was sent, and how to send it again."""
    lines = ["#!/usr/bin/env bash", "# A job waits until every part of the one before it has ended well."]
    lines += ["set -euo pipefail", "now=''"]
    for job, parts in groupby(calls, lambda batch: batch.job):
        lines += ["", "before=$now now=''"]
        for call in parts:
            args = ["sbatch --parsable", *map(shlex.quote, call.options), DEPENDENCY, shlex.join(call.command)]
            lines.append('now="$now:$(' + " \\\n    ".join(args) + ')"')
        lines.append(f'echo {job}"$now"')
    return "\n".join(lines) + "\n"


def send(submission: Submission) -> dict[str, list[str]]:
    """Run the submission's own commands. Gives the ids of each job. Raises RunError with what sbatch says."""
    if not shutil.which("sbatch"):
        raise RunError("sbatch is not to be found; submit on a node of the cluster, or look with --dry-run")
    command = ["bash", str(submission.folder / SUBMIT_SCRIPT)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    job_ids = {name: ids for name, *ids in (line.split(":") for line in process.stdout.splitlines())}
    submission.record_job_ids("slurm", job_ids)
    if process.returncode:
        stderr = " ".join(process.stderr.split())
        raise RunError(
            f"sbatch refuses {submission.folder.name} ({stderr}); sent so far: {', '.join(job_ids) or 'nothing'}"
        )
    return job_ids


def max_array_size() -> int:
    """The cluster's MaxArraySize; SLURM's default if it cannot be asked."""
    if not shutil.which("scontrol"):
        return DEFAULT_MAX_ARRAY_SIZE
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", _stdout_of("scontrol", "show", "config"))
    return int(match[1]) if match else DEFAULT_MAX_ARRAY_SIZE


def job_status(job: str) -> str:
    """How the scheduler says that a job stands; an array's tasks are counted."""
    if not shutil.which("scontrol"):
        return "unknown: no scontrol here"
    states = re.findall(r"JobState=(\w+) Reason=(\S+)", _stdout_of("scontrol", "show", "job", job, "--oneliner"))
    statuses = [name if reason in ("None", "Priority") else f"{name} ({reason})" for name, reason in states]
    if not statuses and shutil.which("sacct"):  # slurmctld forgets a job minutes after its end
        sacct_args = ("--allocations", "--noheader", "--parsable2", "--format=State")
        statuses = _stdout_of("sacct", f"--jobs={job}", *sacct_args).splitlines()
    counts = [f"{number} {name}" if number > 1 else name for name, number in Counter(statuses).items()]
    return ", ".join(counts) or "no longer known to SLURM"


def _stdout_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - our own command
