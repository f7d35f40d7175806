"""Programs that send or contain jobs: found, and answering. None is needed on a single machine."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.doctor.check import Finding, Needs

SECONDS = 3.0
ENGINES = ("docker", "podman", "apptainer", "singularity", "enroot")


def slurm(_: Needs) -> list[Finding]:
    """Whether sbatch is here and its controller answers."""
    if not shutil.which("sbatch"):
        return [
            Finding(what="slurm", state="ok", found="no sbatch here: e4t submit slurm works on the cluster's nodes")
        ]
    answers, said = _asked("scontrol", "ping")
    if answers and " UP" in said:
        return [Finding(what="slurm", state="ok", found=said)]
    remedy = "ask on a node of the cluster, or look at /etc/slurm/slurm.conf and munge"
    return [Finding(what="slurm", state="note", found=f"sbatch is here, its controller is not: {said}", remedy=remedy)]


def kubernetes(_: Needs) -> list[Finding]:
    """Whether kubectl is here and its context's cluster answers."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("kubectl") or shutil.which("kubectl", path=beside)
    if not found:
        return [Finding(what="kubernetes", state="ok", found="no kubectl here: it is for e4t submit k8s")]
    known, context = _asked(found, "config", "current-context")
    if not known:
        remedy = "name the cluster for e4t submit k8s: kubectl config use-context NAME, or KUBECONFIG"
        return [Finding(what="kubernetes", state="note", found=f"kubectl has no context ({context})", remedy=remedy)]
    answers, said = _asked(found, "get", "--raw", "/readyz", "--request-timeout", f"{SECONDS - 1:.0f}s")
    if answers:
        return [Finding(what="kubernetes", state="ok", found=f"context {context} answers: {said}")]
    remedy = "log in again, or choose another: kubectl config use-context NAME"
    return [Finding(what="kubernetes", state="note", found=f"context {context} does not answer: {said}", remedy=remedy)]


def containers(_: Needs) -> list[Finding]:
    """Which container engines are here."""
    there = [said for name in ENGINES if shutil.which(name) for works, said in [_asked(name, "--version")] if works]
    return [
        Finding(what="containers", state="ok", found=", ".join(there) or "no engine: only container images need one")
    ]


def _asked(*command: str) -> tuple[bool, str]:
    """Whether a program did well, and the last thing that it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)  # noqa: S603 - our own command
    except subprocess.TimeoutExpired:
        return False, f"no answer in {SECONDS:g} s"
    except OSError as error:
        return False, str(error.strerror)
    return done.returncode == 0, _last(done.stdout.splitlines() + done.stderr.splitlines())


def _last(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")
