"""Checks of manifests that a Kubernetes API server would do."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from pipelines.cluster.kubernetes import WORKLOAD_KINDS, Manifest, job_spec

ROOT = Path(__file__).parents[2]
OVERLAYS = ("plain", "jobset-kueue", "trainjob")
COMPONENTS = ("gpu", "rdma")
CUSTOM_KINDS = {"JobSet", "TrainJob", "TrainingRuntime"}
"""Custom kinds, which Kubernetes itself does not define."""
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""Volume types that the pod security standard "restricted" allows."""
MAX_NAME_LENGTH = 63
"""Maximum number of characters of a host name or label value."""
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")


def pod_of(manifests: Sequence[Manifest]) -> Manifest:
    """Return the specification of the job's pods."""
    pod: Manifest = job_spec(manifests)["template"]["spec"]
    return pod


def validate(manifest: Manifest, version: str = "1.37") -> None:
    """Validate a manifest against the schema of its kind; raises the error of the validator."""
    if manifest["kind"] in CUSTOM_KINDS:
        jsonschema.validate(manifest, schema(manifest["kind"]))
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@cache
def schema(kind: str) -> Manifest:
    """Return the schema of a custom kind, in which unknown fields are errors."""
    path = Path(__file__).parent / "schemas" / f"{kind}.json"
    return _strict(json.loads(path.read_text()))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    if "apiVersion" in schema.get("properties", {}):  # the root, whose metadata Kubernetes defines
        strict["properties"]["metadata"] = {"type": "object"}
    return strict


def policy_violations(pod: Manifest) -> Iterator[str]:
    """Yield the rules of the pod security standard "restricted" that a pod specification violates."""
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    pod_context = pod.get("securityContext", {})

    def each(name: str) -> list[Any]:
        return [container.get("securityContext", {}).get(name, pod_context.get(name)) for container in containers]

    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "host namespaces"
    if any(not volume.keys() - {"name"} <= RESTRICTED_VOLUMES for volume in pod.get("volumes", [])):
        yield "volumes"
    if any(port.get("hostPort") for container in containers for port in container.get("ports", [])):
        yield "host port"
    if any(each("privileged")):
        yield "privileged"
    if any(value is not False for value in each("allowPrivilegeEscalation")):
        yield "privilege escalation"
    if not all(each("runAsNonRoot")):
        yield "may run as root"
    if any(value == 0 for value in each("runAsUser")):
        yield "runs as root"
    if any((value or {}).get("type") not in ("RuntimeDefault", "Localhost") for value in each("seccompProfile")):
        yield "seccomp"
    if any("ALL" not in (value or {}).get("drop", []) for value in each("capabilities")):
        yield "capabilities kept"
    if any(set((value or {}).get("add", [])) - {"NET_BIND_SERVICE"} for value in each("capabilities")):
        yield "capabilities added"
    if any((value or "Default") != "Default" for value in each("procMount")):
        yield "proc mount"
    if any((value or {}).get("type", "RuntimeDefault") == "Unconfined" for value in each("appArmorProfile")):
        yield "AppArmor"
    if any(set(value or {}) & {"user", "role"} for value in each("seLinuxOptions")):
        yield "SELinux"
    if any((value or {}).get("hostProcess") for value in each("windowsOptions")):
        yield "host process"
    if pod_context.get("sysctls"):
        yield "sysctls"


def rejections(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield the rules beyond the schemas by which an API server would reject manifests."""
    job, pod = job_spec(manifests), pod_of(manifests)
    (workload,) = (each for each in manifests if each["kind"] in WORKLOAD_KINDS)
    pods = workload["metadata"]["name"] + {"Job": "", "JobSet": "-nodes-0", "TrainJob": "-node-0"}[workload["kind"]]
    hosts = f"{pods}-{job['completions'] - 1}"
    if len(f"{hosts}-abcde") > MAX_NAME_LENGTH or not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", hosts):
        yield "name of a pod"
    labels = [each["metadata"].get("labels", {}) for each in [*manifests, job["template"]]]
    if not all(LABEL.fullmatch(value) for each in labels for value in each.values()):
        yield "label"
    if sum(len(text.encode()) for each in manifests for text in each.get("data", {}).values()) > 2**20:
        yield "size of the recipe"
    if pod["restartPolicy"] not in ("Never", *(() if "podFailurePolicy" in job else ("OnFailure",))):
        yield "restart policy"
    if job["completionMode"] == "Indexed" and not (job.get("completions", 0) > 0 and job.get("parallelism", 0) > 0):
        yield "completions"
    if "podFailurePolicy" in job and job["podReplacementPolicy"] != "Failed":
        yield "replacement policy"
    exits = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    names = {each["name"] for each in pod["containers"]}
    if any(each["containerName"] not in names or (each["operator"] == "In" and 0 in each["values"]) for each in exits):
        yield "exit codes"
    for container in pod["containers"]:
        if not all(QUANTITY.fullmatch(amount) for kind in container["resources"].values() for amount in kind.values()):
            yield "quantity"
        if not all(re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", each["name"]) for each in container["env"]):
            yield "variable"
        if {each["name"] for each in container["volumeMounts"]} - {each["name"] for each in pod["volumes"]}:
            yield "mount"
