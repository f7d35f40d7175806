"""From a run to images by the commands: release, tune, generate, evaluate."""

import json
from pathlib import Path

import pytest

from encoder.pipeline import E4TPipeline
from pipelines.tracking.client import connect
from tests.pipelines.pretraining.runs import E4T

pytestmark = pytest.mark.distributed


def test_the_commands_lead_from_a_run_to_images(
    e4t: E4T, recipe: Path, run: Path, shards: Path, tmp_path: Path
) -> None:
    image = next((shards.parent / "faces").glob("*/000.png"))
    release, concept, images = tmp_path / "release", tmp_path / "concept", tmp_path / "images"
    few = ("--evaluate.num_concepts", "1", "--evaluate.steps", "[0]")
    commands = (
        ("release", "--recipe", recipe, "--version", "1.0.0", "--output", release),
        ("tune", "--release", release, "--image", image, "--steps", "1", "--output", concept),
        ("generate", "--release", release, "--concept", concept, "--prompt", "*s", "--count", "1", "--output", images),
        ("evaluate", "--recipe", recipe, "--release", release, "--output", tmp_path / "evaluation", *few),
    )
    for command in commands:
        code, out, err = e4t(*command)
        assert code == 0, err
        assert command[0] != "release" or "models:/small/1  alias candidate" in out
    assert (images / "0000.png").exists()
    assert (tmp_path / "evaluation" / "grid.png").exists()
    report = json.loads((tmp_path / "evaluation" / "report.json").read_text())
    reference = report["systems"][-1]
    version = connect(tmp_path / "runs").get_model_version("small", "1")
    assert version.tags["evaluate_run_id"]
    assert reference["system"] == "reference images"
    assert reference["scores"]["reference_similarity"]["mean"] == pytest.approx(1, abs=1e-4)
    assert E4TPipeline.from_pretrained(release).release == "small 1.0.0"
