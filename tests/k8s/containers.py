"""Run pods in real containers with podman and runc.

This module acts as the Job controller, by the rules of the Job itself, and replaces what only a cluster provides:
volume groups, and host names that outlive a pod.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Self

import yaml

from pipelines.cluster.kubernetes import Manifest, job_spec
from tests.k8s.manifests import ROOT

PROGRAMS = ("podman", "runc", "conmon", "netavark", "iptables", "catatonit")
IMAGE = "e4t:0.1.0"
# Without CAP_SYS_RESOURCE a sandbox cannot raise resource limits, which podman requests for every container.
RUNTIME = """#!/usr/bin/env python3
import json, os, sys
words = sys.argv[1:]
if "create" in words:
    path = words[words.index("--bundle") + 1] + "/config.json"
    config = json.load(open(path))
    config["process"].pop("rlimits", None)
    config["process"].pop("oomScoreAdj", None)
    json.dump(config, open(path, "w"))
os.execvp("runc", ["runc", *words])
"""
NODE_FOLDERS = {"/usr/bin": "/bin", "/usr/lib": "/lib", "/usr/lib64": "/lib64", "/usr": "/usr"}
"""Folders of this machine that replace the base image of the Dockerfile, with their paths in the container."""


def cannot_have_containers() -> str:
    """Return why containers cannot run on this machine; an empty string if they can."""
    if os.geteuid() != 0:
        return "starting containers needs root"
    path = os.environ["PATH"] + ":/usr/sbin:/usr/lib/podman:/usr/libexec/podman"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    if missing:
        return f"no {', '.join(missing)}: apt-get install podman runc conmon netavark aardvark-dns iptables catatonit"
    if not (Path(sys.prefix) / "bin" / "e4t").exists():
        return "e4t is not installed in this environment; pip install --editable ."
    closed = next((path for path in (ROOT, Path(sys.prefix)) if path.stat().st_mode & 0o005 != 0o005), None)
    return f"{closed} is closed to the pods' user" if closed else ""


class PodmanError(RuntimeError):
    """A podman command failed; the message has its output."""


class Node:
    """Podman with its own storage, the image, and a network in which pods resolve each other by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = f"e4t-{os.getpid()}"
        self._podman = [
            "podman", "--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--cgroup-manager=cgroupfs",
            "--events-backend=file", "--runtime", str(folder / "runtime"),
        ]  # fmt: skip

    def __enter__(self) -> Self:
        (self.folder / "runtime").write_text(RUNTIME)
        (self.folder / "runtime").chmod(0o755)
        self._build()
        self.podman("network", "create", self.network)
        return self

    def __exit__(self, *_: object) -> None:
        self.podman("pod", "rm", "--force", "--all", "--time", "0")
        self.podman("volume", "rm", "--force", "--all")
        self.podman("network", "rm", self.network)
        with suppress(PodmanError):  # unmounts its storage
            self.podman("system", "reset", "--force")

    def podman(self, *words: str) -> str:
        """Run a podman command and return its output, including logs. Raises PodmanError if it fails."""
        done = subprocess.run([*self._podman, *words], capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        if done.returncode:
            raise PodmanError(f"podman {' '.join(words)}: {done.stderr}")
        return done.stdout + (done.stderr if words[0] == "logs" else "")

    def _build(self) -> None:
        """Build the ``cpu`` stage of the Dockerfile, without the steps that need an image registry."""
        context = self.folder / "context"
        for name in ("etc", "proc", "sys", "dev", "opt", *(inside[1:] for inside in NODE_FOLDERS.values())):
            (context / "root" / name).mkdir(parents=True)
        (context / "root" / "tmp").mkdir()
        (context / "root" / "tmp").chmod(0o1777)
        shutil.copytree(ROOT / "models", context / "models")
        steps = (ROOT / "k8s" / "Dockerfile").read_text().partition(" AS cpu\n")[2].partition("\nFROM ")[0].splitlines()
        installed = f"RUN ln -s {sys.prefix} /opt/venv"
        steps = [installed if step.startswith("COPY --from=build") else step for step in steps]
        (context / "Dockerfile").write_text("\n".join(["FROM scratch", "COPY root /", *steps]) + "\n")
        layers = [f"--volume={here}:{inside}:ro" for here, inside in NODE_FOLDERS.items()]
        self.podman("build", "--layers=false", *layers, "--tag", IMAGE, str(context))

    def volume(self, name: str) -> Path:
        """Create the volume of a claim, and return its folder on this machine."""
        with suppress(PodmanError):
            self.podman("volume", "create", name)
        return Path(self.podman("volume", "inspect", name, "--format", "{{.Mountpoint}}").strip())


class Pod:
    """A pod of a Job."""

    def __init__(self, node: Node, manifests: list[Manifest], index: int, attempt: int) -> None:
        self.node, self.index = node, index
        template = deepcopy(job_spec(manifests)["template"])
        name = next(each["metadata"]["name"] for each in manifests if each["kind"] == "Job")
        spec, config = template["spec"], next(each for each in manifests if each["kind"] == "ConfigMap")
        self.name = f"{name}-{index}.{spec['subdomain']}"  # host name that the Service would provide
        self.attempt = f"{self.name}.{attempt}"
        self.grace_seconds: int = spec["terminationGracePeriodSeconds"]
        (container,) = spec["containers"]
        container["imagePullPolicy"] = "Never"
        for variable in container["env"]:  # podman does not support pod annotations
            if "job-completion-index" in str(variable):
                variable.pop("valueFrom")
                variable["value"] = str(index)
        container["env"].append({"name": "JOB_COMPLETION_INDEX", "value": str(index)})
        for volume in spec["volumes"]:  # podman would share them between pods
            if "emptyDir" in volume:
                own = f"{self.attempt}-{volume['name']}"
                next(each for each in container["volumeMounts"] if each["name"] == volume["name"])["name"] = own
                volume["name"] = own
        outside = {path: path for path in (str(ROOT), sys.prefix, sys.base_prefix) if not path.startswith("/usr")}
        for place, (here, inside) in enumerate((NODE_FOLDERS | outside).items()):
            spec["volumes"].append({"name": f"node-{place}", "hostPath": {"path": here}})
            container["volumeMounts"].append({"name": f"node-{place}", "mountPath": inside, "readOnly": True})
        labels = template["metadata"]["labels"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name, "labels": labels}, "spec": spec}
        files = {"pod": pod, "config": config}
        for kind, manifest in files.items():
            (node.folder / f"{self.attempt}-{kind}.yaml").write_text(yaml.safe_dump(manifest))
        config_map = str(node.folder / f"{self.attempt}-config.yaml")
        play = ("kube", "play", "--network", node.network, "--configmap", config_map)
        node.podman(*play, str(node.folder / f"{self.attempt}-pod.yaml"))

    @property
    def container(self) -> str:
        """Name of the container in podman."""
        return f"{self.name}-node"

    def code(self) -> int | None:
        """Return the exit code, None while the container runs."""
        command = ("inspect", self.container, "--format", "{{.State.Status}} {{.State.ExitCode}}")
        status, code = self.node.podman(*command).split()
        return int(code) if status == "exited" else None

    def kill(self) -> None:
        """Kill the container, as the loss of its node would."""
        self.node.podman("kill", "--signal", "KILL", self.container)

    def evict(self) -> None:
        """Send SIGTERM, and SIGKILL after the grace period."""
        self.node.podman("stop", "--time", str(self.grace_seconds), self.container)

    def remove(self) -> str:
        """Remove the pod and return its logs."""
        log = self.node.podman("logs", self.container)
        self.node.podman("pod", "rm", "--force", "--time", "0", self.name)
        return log


class RunningJob:
    """An Indexed Job: its pods, and the actions of the Job controller when one ends."""

    def __init__(self, node: Node, manifests: list[Manifest]) -> None:
        self.node, self.manifests = node, manifests
        self.spec = job_spec(manifests)
        self.failures = self.ignored = self.started = 0
        self.log = ""
        self.evicted: set[Pod] = set()
        self.pods = {index: self._start(index) for index in range(self.spec["completions"])}

    def _start(self, index: int) -> Pod:
        self.started += 1
        return Pod(self.node, self.manifests, index, self.started)

    def evict(self, index: int) -> None:
        """Evict a pod, which Kubernetes counts as a disruption."""
        self.evicted.add(self.pods[index])
        self.pods[index].evict()

    def wait(self, seconds: float = 400) -> str:
        """Act as the Job controller until the Job ends; return Complete or Failed."""
        deadline = time.monotonic() + seconds
        while self.pods:
            assert time.monotonic() < deadline, self._stop_and_get_log()
            for index, pod in list(self.pods.items()):
                code = pod.code()
                if code is None:
                    continue
                self.log += f"--- {pod.attempt} ended with {code}\n{pod.remove()}"
                del self.pods[index]
                action = self._action(code, evicted=pod in self.evicted) if code else "Done"
                self.failures += action == "Count"
                self.ignored += action == "Ignore"
                if action == "FailJob" or self.failures > self.spec["backoffLimit"]:
                    self._stop()
                    return "Failed"
                if code:
                    self.pods[index] = self._start(index)
            time.sleep(0.3)
        return "Complete"

    def _action(self, code: int, *, evicted: bool) -> str:
        for rule in self.spec["podFailurePolicy"]["rules"]:
            on = rule.get("onExitCodes")
            if (on and (code in on["values"]) == (on["operator"] == "In")) or ("onPodConditions" in rule and evicted):
                return str(rule["action"])
        return "Count"

    def _stop(self) -> None:
        for pod in self.pods.values():
            self.log += pod.remove()
        self.pods = {}

    def _stop_and_get_log(self) -> str:
        self._stop()
        return self.log

    def until(self, condition: Callable[[], bool], seconds: float = 200) -> None:
        """Wait until the condition holds while pods run."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self._stop_and_get_log()
            time.sleep(0.2)
