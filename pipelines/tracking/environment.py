"""Record the code revision, packages and machine that a run uses."""

import os
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "deepspeed", "accelerate", "diffusers", "transformers", "mlflow")


@cache
def code_revision() -> str:
    """Git revision of the code, marked if the tree is changed; ``unknown`` outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed; a checkout further up is somebody else's
        return "unknown"
    try:
        revision = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{revision}-changed" if changed else revision


def code_diff() -> str:
    """What a checkout's tracked files have beyond their revision; empty outside a checkout."""
    try:
        return _git(Path(__file__).parents[2], "diff", "HEAD") if code_revision().endswith("-changed") else ""
    except OSError:
        return ""


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - our own command


def environment() -> dict[str, Any]:
    """What the run runs on."""
    return {
        "host": socket.gethostname(),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
        "code": code_revision(),
        **{package: version(package) for package in PACKAGES},
    }
