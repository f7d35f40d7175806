"""What Kubernetes would say of manifests."""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from pipelines.submission.kubernetes import Manifest, job_of

ROOT = Path(__file__).parents[2]
OVERLAYS = ("plain", "jobset-kueue", "trainjob")
COMPONENTS = ("gpu", "rdma")
OWN_KINDS = {"JobSet", "TrainJob", "TrainingRuntime"}
"""Of which Kubernetes itself knows nothing."""


def pod_of(manifests: Sequence[Manifest]) -> Manifest:
    """The specification of the job's pods."""
    pod: Manifest = job_of(manifests)["template"]["spec"]
    return pod


def validate(manifest: Manifest, version: str = "1.37") -> None:
    """Against Kubernetes' own schema, or the custom kind's; raises what the validator of it raises."""
    if manifest["kind"] in OWN_KINDS:
        jsonschema.validate(manifest, schema(manifest["kind"]))
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@cache
def schema(kind: str) -> Manifest:
    """A custom resource's own schema, made strict: what it does not know is wrong."""
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
    if "apiVersion" in schema.get("properties", {}):  # the root: its metadata is Kubernetes' own
        strict["properties"]["metadata"] = {"type": "object"}
    return strict


def breaches(pod: Manifest) -> Iterator[str]:
    """What the pod security standard "restricted" forbids of a pod's specification, a word for each rule."""
    everyone = [*pod.get("initContainers", []), *pod["containers"]]
    for_all = pod.get("securityContext", {})

    def each(name: str) -> list[Any]:
        return [one.get("securityContext", {}).get(name, for_all.get(name)) for one in everyone]

    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "host namespaces"
    if any("hostPath" in volume for volume in pod.get("volumes", [])):
        yield "host path"
    if any(port.get("hostPort") for one in everyone for port in one.get("ports", [])):
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
    if for_all.get("sysctls"):
        yield "sysctls"
