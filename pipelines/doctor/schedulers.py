"""Check SLURM, Kubernetes and container engines. A single machine needs none of them."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.doctor.check import CheckResult, JobRequirements

TIMEOUT_SECONDS = 3.0
CONTAINER_ENGINES = ("docker", "podman", "apptainer", "singularity", "enroot")


def check_slurm(_: JobRequirements) -> list[CheckResult]:
    """Check that sbatch is installed and the SLURM controller responds."""
    if not shutil.which("sbatch"):
        return [
            CheckResult(
                name="slurm",
                status="ok",
                detail="sbatch is not installed; e4t submit slurm must run on a login node of the cluster",
            )
        ]
    answers, output = _run_command("scontrol", "ping")
    if answers and " UP" in output:
        return [CheckResult(name="slurm", status="ok", detail=output)]
    remedy = "run it on a node of the cluster, or check /etc/slurm/slurm.conf and munge"
    return [
        CheckResult(
            name="slurm",
            status="warn",
            detail=f"sbatch is installed, but the controller does not respond: {output}",
            remedy=remedy,
        )
    ]


def check_kubernetes(_: JobRequirements) -> list[CheckResult]:
    """Check that kubectl is installed and the cluster of its current context responds."""
    bin_dir = str(Path(sys.executable).parent)
    kubectl = shutil.which("kubectl") or shutil.which("kubectl", path=bin_dir)
    if not kubectl:
        return [
            CheckResult(name="kubernetes", status="ok", detail="kubectl is not installed; only e4t submit k8s needs it")
        ]
    has_context, context = _run_command(kubectl, "config", "current-context")
    if not has_context:
        remedy = "select a cluster for e4t submit k8s: kubectl config use-context NAME, or set KUBECONFIG"
        return [
            CheckResult(name="kubernetes", status="warn", detail=f"kubectl has no context ({context})", remedy=remedy)
        ]
    answers, output = _run_command(
        kubectl, "get", "--raw", "/readyz", "--request-timeout", f"{TIMEOUT_SECONDS - 1:.0f}s"
    )
    if answers:
        return [CheckResult(name="kubernetes", status="ok", detail=f"context {context} responds: {output}")]
    remedy = "log in again, or select another cluster: kubectl config use-context NAME"
    return [
        CheckResult(
            name="kubernetes", status="warn", detail=f"context {context} does not respond: {output}", remedy=remedy
        )
    ]


def check_containers(_: JobRequirements) -> list[CheckResult]:
    """List the installed container engines."""
    versions = [
        output
        for name in CONTAINER_ENGINES
        if shutil.which(name)
        for works, output in [_run_command(name, "--version")]
        if works
    ]
    return [
        CheckResult(
            name="containers",
            status="ok",
            detail=", ".join(versions) or "no container engine is installed; only container images need one",
        )
    ]


def _run_command(*command: str) -> tuple[bool, str]:
    """Run a program; return whether it succeeded, and the last line of its output."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)  # noqa: S603 - our own command
    except subprocess.TimeoutExpired:
        return False, f"timed out after {TIMEOUT_SECONDS:g} s"
    except OSError as error:
        return False, str(error.strerror)
    return process.returncode == 0, _last_line(process.stdout.splitlines() + process.stderr.splitlines())


def _last_line(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
