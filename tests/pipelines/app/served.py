"""Start `e4t app` for a test."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RELEASE = Path(__file__).parents[3] / "models" / "faces"


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run `e4t app` on a free port; yield its URL and its process."""
    command = [sys.executable, "-m", "e4t", "app", "--release", str(RELEASE), "--port", "0", "--device", "cpu"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        try:
            line = process.stdout.readline()
            assert line.startswith("page: http://"), line
            yield line.split()[1], process
        finally:
            process.terminate()
            process.wait()
