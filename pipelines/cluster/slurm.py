"""SLURM: render a submission as sbatch commands, which all run ``slurm/job.sbatch`` unchanged."""

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

from e4t_errors import ConfigError
from pipelines.cluster.jobs import RECIPE_FILE, Job
from pipelines.cluster.submission import SUBMIT_SCRIPT, Submission
from pipelines.errors import RunError

JOB_SCRIPT, SITE_FILE = "job.sbatch", "site.sh"
DEPENDENCY = '${before:+--dependency="afterok$before" --kill-on-invalid-dep=yes}'
DEFAULT_MAX_ARRAY_SIZE = 1001
"""SLURM's default of MaxArraySize, for when scontrol is not available."""


@dataclass(frozen=True, kw_only=True)
class SlurmSite:
    """Settings that differ from cluster to cluster. Keep them in a small YAML file for ``--site``."""

    partition: str | None = None
    """Partition of all jobs; by default that of the cluster."""
    account: str | None = None
    """Account that is charged; by default the user's."""
    time: str = "24:00:00"
    """Time limit of each job, in the format of ``sbatch --time``."""
    devices_per_node: int = 1
    """Number of ranks per node in pre-training: one per GPU."""
    gpus: bool = True
    """Request one GPU per rank; false on CPU nodes."""
    cpus_per_device: int = 1
    """CPU cores per rank or array task."""
    max_parallel_tasks: int = 32
    """Maximum number of tasks of an array that run at the same time."""
    warn_seconds: int = 300
    """Seconds before the time limit at which SIGUSR2 tells the ranks to save. Must exceed the time of a checkpoint."""
    requeues: int = 20
    """How many times a job that was preempted, stopped or killed is requeued."""
    launcher: Literal["srun", "torchrun"] = "srun"
    """Program that starts the ranks of pre-training."""
    container: Literal["none", "pyxis", "apptainer"] = "none"
    """Container runtime of the jobs."""
    image: str | None = None
    """Container image: a registry reference, or a file."""
    mounts: tuple[str, ...] = ()
    """Container mounts, each ``host:container``. The working directory is always mounted."""
    python: tuple[str, ...] = (sys.executable,)
    """Command of the Python interpreter that has e4t, as a list of words. By default the one that submits, which must
    then exist on the nodes."""
    options: tuple[str, ...] = ()
    """Additional options of sbatch, each as one word: ``--qos=low``, ``--exclusive``."""
    setup: str = ""
    """Shell lines that run before e4t: modules, environments, variables."""

    def __post_init__(self) -> None:
        for name in ("mounts", "python", "options"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if min(self.devices_per_node, self.cpus_per_device, self.max_parallel_tasks) < 1 or self.requeues < 0:
            raise ConfigError(
                "site: devices_per_node, cpus_per_device and max_parallel_tasks must be at least 1, requeues at least 0"
            )
        if (self.container == "none") != (self.image is None):
            raise ConfigError(f"site: container is {self.container} and image is {self.image}; give both, or neither")

    @property
    def container_args(self) -> list[str]:
        """Words between srun and the command: options of srun, or the program that enters a container."""
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
    """A call of sbatch. It depends on every call of the job before it."""

    job: str
    options: tuple[str, ...]
    command: tuple[str, ...]
    """Job script and its arguments."""


def sbatch_calls(
    jobs: Sequence[Job], site: SlurmSite, folder: Path, run_name: str, max_array: int = DEFAULT_MAX_ARRAY_SIZE
) -> list[SbatchCall]:
    """Return the calls of sbatch for the jobs in order; an array larger than ``max_array`` gets several calls."""
    calls = []
    for job in jobs:
        parts = list(_split_array(job, max_array))
        for first, count in parts:
            options = [*_sbatch_options(job, site, folder, run_name)]
            kind = site.launcher if job.kind == "ranks" else job.kind
            command = [str(folder / JOB_SCRIPT), str(folder), kind]
            if job.kind == "array":
                max_parallel = max(1, site.max_parallel_tasks // len(parts))  # the parts run at the same time
                options.append(f"--array=0-{count - 1}%{max_parallel}")
                command += [str(first), str(job.size)]
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
    """Render everything that is sent as files: the job script, the site settings and the sbatch commands."""
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
    """Return the text of ``slurm/job.sbatch``."""
    return files("slurm").joinpath(JOB_SCRIPT).read_text()


def render_site_script(site: SlurmSite) -> str:
    """Render the site settings that the job script sources, every value quoted, and the site's own shell lines."""
    lines = [
        f"python=({shlex.join(site.python)})",
        f"container=({shlex.join(site.container_args)})",
        f"requeues={site.requeues}",
        f"export DEVICES_PER_NODE={site.devices_per_node}",
        site.setup.rstrip(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def render_submit_script(calls: Sequence[SbatchCall]) -> str:
    """Render the shell script that submits all jobs; it also documents the submission and repeats it."""
    lines = ["#!/usr/bin/env bash", "# Each job waits until every part of the job before it has succeeded."]
    lines += ["set -euo pipefail", "now=''"]
    for job, parts in groupby(calls, lambda batch: batch.job):
        lines += ["", "before=$now now=''"]
        for call in parts:
            args = ["sbatch --parsable", *map(shlex.quote, call.options), DEPENDENCY, shlex.join(call.command)]
            lines.append('now="$now:$(' + " \\\n    ".join(args) + ')"')
        lines.append(f'echo {job}"$now"')
    return "\n".join(lines) + "\n"


def send(submission: Submission) -> dict[str, list[str]]:
    """Run the submission's own commands, and return the ids of each job. Raises RunError with the message of sbatch."""
    if not shutil.which("sbatch"):
        raise RunError("sbatch was not found; submit from a node of the cluster, or inspect the files with --dry-run")
    command = ["bash", str(submission.folder / SUBMIT_SCRIPT)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    job_ids = {name: ids for name, *ids in (line.split(":") for line in process.stdout.splitlines())}
    submission.record_job_ids("slurm", job_ids)
    if process.returncode:
        stderr = " ".join(process.stderr.split())
        raise RunError(
            f"sbatch rejected {submission.folder.name} ({stderr}); submitted so far: {', '.join(job_ids) or 'nothing'}"
        )
    return job_ids


def max_array_size() -> int:
    """Return the cluster's MaxArraySize, or SLURM's default if scontrol is not available."""
    if not shutil.which("scontrol"):
        return DEFAULT_MAX_ARRAY_SIZE
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", _stdout_of("scontrol", "show", "config"))
    return int(match[1]) if match else DEFAULT_MAX_ARRAY_SIZE


def job_status(job: str) -> str:
    """Return the state of a job as SLURM reports it; the tasks of an array are counted by state."""
    if not shutil.which("scontrol"):
        return "unknown: scontrol was not found"
    states = re.findall(r"JobState=(\w+) Reason=(\S+)", _stdout_of("scontrol", "show", "job", job, "--oneliner"))
    statuses = [name if reason in ("None", "Priority") else f"{name} ({reason})" for name, reason in states]
    if not statuses and shutil.which("sacct"):  # slurmctld drops a job some minutes after its end
        sacct_args = ("--allocations", "--noheader", "--parsable2", "--format=State")
        statuses = _stdout_of("sacct", f"--jobs={job}", *sacct_args).splitlines()
    counts = [f"{number} {name}" if number > 1 else name for name, number in Counter(statuses).items()]
    return ", ".join(counts) or "no longer known to SLURM"


def _stdout_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - our own command
