"""Shared by all benchmarks: interleaved timing, measurements in a subprocess, and JSON reports."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time every candidate once per round. Return seconds per round, by candidate.

    ``clock`` may be ``time.process_time``, which other jobs on the machine affect less. Every second round runs in
    reverse order, so that a machine that slows down affects all candidates alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name in list(candidates) if number % 2 == 0 else reversed(list(candidates)):
            start = clock()
            candidates[name]()
            seconds[name].append(clock() - start)
    return seconds


def summarize_ratios(numerators: list[float], denominators: list[float]) -> dict[str, float]:
    """Divide round by round. Return the median, minimum and maximum of the ratios."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def format_ratio(summary: Mapping[str, float]) -> str:
    """Format a summary of ratios as ``12.30 (11.00-13.10)``."""
    return f"{summary['median']:.2f} ({summary['min']:.2f}-{summary['max']:.2f})"


def measure_in_subprocess(module: str, *arguments: str) -> dict[str, Any]:
    """Run ``python -m module arguments`` and parse the last line of its output as JSON.

    A fresh process has its own peak memory. Raises RuntimeError with the last line of stderr if it fails.
    """
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {(process.stderr.strip().splitlines() or ['killed'])[-1]}")
    measurements: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return measurements


def write_report(settings: Mapping[str, Any], results: Mapping[str, Any], file: Path | None) -> None:
    """Write machine, settings and results as JSON to a file, or print them if there is none."""
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    report = {"machine": machine, "settings": settings, **results}
    if file:
        file.write_text(json.dumps(report, indent=1, default=str) + "\n")
    else:
        print(json.dumps(report, default=str))
