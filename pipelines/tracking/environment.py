"""Record the code revision, packages and machine that a run uses."""

import os
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

DIRTY_SUFFIX = "-changed"
"""Suffix of the code revision if tracked files are modified."""
PACKAGES = ("torch", "deepspeed", "accelerate", "diffusers", "transformers", "mlflow")


@cache
def code_revision() -> str:
    """Return the git revision of the code, with ``-changed`` appended if tracked files are modified.

    Outside a checkout it is ``unknown``.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed; a checkout in a parent folder is of another project
        return "unknown"
    try:
        revision = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{revision}{DIRTY_SUFFIX}" if changed else revision


def code_diff() -> str:
    """Return the diff of tracked files against the git revision; empty if there is none or this is not a checkout."""
    try:
        return _git(Path(__file__).parents[2], "diff", "HEAD") if code_revision().endswith(DIRTY_SUFFIX) else ""
    except OSError:
        return ""


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own command
    return result.stdout.strip()


def environment() -> dict[str, Any]:
    """Return host, platform, Python, package versions and code revision of this process."""
    return {
        "host": socket.gethostname(),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
        "code": code_revision(),
        **{package: version(package) for package in PACKAGES},
    }
