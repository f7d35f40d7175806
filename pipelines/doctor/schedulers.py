"""Programs that send or contain jobs: found, and answering. None is needed on a single machine."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.doctor.check import CheckResult, JobRequirements

TIMEOUT_SECONDS = 3.0
CONTAINER_ENGINES = ("docker", "podman", "apptainer", "singularity", "enroot")


def check_slurm(_: JobRequirements) -> list[CheckResult]:
    """Whether sbatch is here and its controller answers."""
    if not shutil.which("sbatch"):
        return [
            CheckResult(
                name="slurm", status="ok", detail="no sbatch here: e4t submit slurm works on the cluster's nodes"
            )
        ]
    answers, output = _run_command("scontrol", "ping")
    if answers and " UP" in output:
        return [CheckResult(name="slurm", status="ok", detail=output)]
    remedy = "ask on a node of the cluster, or look at /etc/slurm/slurm.conf and munge"
    return [
        CheckResult(
            name="slurm", status="note", detail=f"sbatch is here, its controller is not: {output}", remedy=remedy
        )
    ]


def check_kubernetes(_: JobRequirements) -> list[CheckResult]:
    """Whether kubectl is here and its context's cluster answers."""
    bin_dir = str(Path(sys.executable).parent)
    kubectl = shutil.which("kubectl") or shutil.which("kubectl", path=bin_dir)
    if not kubectl:
        return [CheckResult(name="kubernetes", status="ok", detail="no kubectl here: it is for e4t submit k8s")]
    has_context, context = _run_command(kubectl, "config", "current-context")
    if not has_context:
        remedy = "name the cluster for e4t submit k8s: kubectl config use-context NAME, or KUBECONFIG"
        return [
            CheckResult(name="kubernetes", status="note", detail=f"kubectl has no context ({context})", remedy=remedy)
        ]
    answers, output = _run_command(
        kubectl, "get", "--raw", "/readyz", "--request-timeout", f"{TIMEOUT_SECONDS - 1:.0f}s"
    )
    if answers:
        return [CheckResult(name="kubernetes", status="ok", detail=f"context {context} answers: {output}")]
    remedy = "log in again, or choose another: kubectl config use-context NAME"
    return [
        CheckResult(
            name="kubernetes", status="note", detail=f"context {context} does not answer: {output}", remedy=remedy
        )
    ]


def check_containers(_: JobRequirements) -> list[CheckResult]:
    """Which container engines are here."""
    versions = [
        said
        for name in CONTAINER_ENGINES
        if shutil.which(name)
        for works, said in [_run_command(name, "--version")]
        if works
    ]
    return [
        CheckResult(
            name="containers", status="ok", detail=", ".join(versions) or "no engine: only container images need one"
        )
    ]


def _run_command(*command: str) -> tuple[bool, str]:
    """Whether a program did well, and the last thing that it said."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)  # noqa: S603 - our own command
    except subprocess.TimeoutExpired:
        return False, f"no answer in {TIMEOUT_SECONDS:g} s"
    except OSError as error:
        return False, str(error.strerror)
    return process.returncode == 0, _last_line(process.stdout.splitlines() + process.stderr.splitlines())


def _last_line(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")
