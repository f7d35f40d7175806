"""The benchmark of tuning memory, on the shipped base model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bases import SHIPPED


@pytest.mark.long
def test_every_setting_is_measured_beside_its_prediction(tmp_path: Path) -> None:
    settings = ["plain", "unet, bf16", "lora, bf16, checkpointing"]
    command = [sys.executable, "-m", "benchmarks.tuning_memory", "--base", str(SHIPPED), "--resolution", "64"]
    command += ["--hidden-width", "64", "--json", str(tmp_path / "results.json"), "--settings", *settings]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own command
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["setting"] for row in rows] == settings
    assert all(row["peak"] >= row["built"] > 0 for row in rows)
    assert [row["predicted"] is None for row in rows] == [True, False, False]
