"""A measurement in a process of its own."""

import json
import subprocess
import sys
from typing import Any


def figures_of(module: str, *words: str) -> dict[str, Any]:
    """What ``python -m module words`` prints last, as JSON. Raises RuntimeError with its last words."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures
