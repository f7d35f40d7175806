"""A measurement in a process of its own: what it says, and the most memory that it held."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def figures_of(module: str, *words: str) -> dict[str, Any]:
    """What ``python -m module words`` prints last, as JSON. Raises RuntimeError with its last words."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def peak() -> float:
    """Bytes that this process has held at most; getrusage would count those of the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Count anew from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")
