"""The benchmark commands run on the shipped base model and write their results."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bases import SHIPPED

BASE = ["--base", str(SHIPPED)]


def run(name: str, file: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(file), *arguments]
    process = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own command
    assert process.returncode == 0, process.stderr
    return json.loads(file.read_text())


@pytest.mark.long
def test_sampling(tmp_path: Path) -> None:
    results = run("sampling", tmp_path / "results.json", "--rounds", "1", "--steps", "2", "--num-images", "1")
    assert results["ratios"]["concept"]["median"] > 0


@pytest.mark.long
def test_training_step(tmp_path: Path) -> None:
    results = run(
        "training_step", tmp_path / "results.json", *BASE, "--resolution", "64", "--rounds", "1", "--batch-size", "1"
    )
    assert results["speedup"]["median"] > 0
    assert results["memory"]["median"] > 0


@pytest.mark.long
def test_device(tmp_path: Path) -> None:
    sizes = ("--resolution", "64", "--batch-sizes", "1", "--tuning-batch-size", "2")
    steps = ("--steps", "1", "--warmup-steps", "0", "--tuning-steps", "1")
    settings = ("--settings", "cached", "lora, checkpointing")
    results = run("device", tmp_path / "results.json", *BASE, "--device", "cpu", *sizes, *steps, *settings)
    assert [row["setting"] for row in results["rows"]] == ["cached", "lora, checkpointing"]
    assert all(row["images_per_second"] > 0 and row["peak"] > 0 for row in results["rows"])
