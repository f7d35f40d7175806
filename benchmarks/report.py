"""What a benchmark saw, as JSON: the machine, the settings, the figures."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def deliver(settings: Mapping[str, Any], found: Mapping[str, Any], file: Path | None) -> None:
    """Write it to a file, or print it if there is none."""
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    report = {"machine": machine, "settings": settings, **found}
    if file:
        file.write_text(json.dumps(report, indent=1, default=str) + "\n")
    else:
        print(json.dumps(report, default=str))
