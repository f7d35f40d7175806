"""The commands themselves, on the shipped base: they end, and their files hold what they promise."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bases import SHIPPED

BASE = ["--base", str(SHIPPED)]


def run(name: str, file: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(file), *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own command
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


@pytest.mark.long
def test_sampling(tmp_path: Path) -> None:
    found = run("sampling", tmp_path / "found.json", "--rounds", "1", "--steps", "2", "--pictures", "1")
    assert found["ratios"]["concept"]["median"] > 0


@pytest.mark.long
def test_the_training_step(tmp_path: Path) -> None:
    found = run("training_step", tmp_path / "found.json", *BASE, "--side", "64", "--rounds", "1", "--batch", "1")
    assert found["faster"]["median"] > 0
    assert found["smaller"]["median"] > 0


@pytest.mark.long
def test_the_device(tmp_path: Path) -> None:
    words = ("--side", "64", "--device", "cpu", "--batches", "1", "--steps", "1", "--warm-up", "0", "--copies", "2")
    settings = ("--settings", "cached", "lora, checkpointing")
    found = run("device", tmp_path / "found.json", *BASE, *words, "--tuning-steps", "1", *settings)
    assert [row["setting"] for row in found["rows"]] == ["cached", "lora, checkpointing"]
    assert all(row["pictures_per_second"] > 0 and row["peak"] > 0 for row in found["rows"])
