"""End-to-end tests of `e4t compare` with the shipped base model and release."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from data_prep.config import PrepareConfig
from pipelines.cli.main import main
from pipelines.evaluation.report import REFERENCE
from pipelines.tracking.client import connect
from tests.shared import copy_mlflow_database

ROOT = Path(__file__).parents[3]
E4T = Callable[..., tuple[int, str, str]]
SYSTEMS = [
    {"name": "Stable Diffusion", "method": "none"},
    {"name": "Textual Inversion", "method": "textual-inversion", "steps": [1, 2], "settings": {"batch_size": 1}},
    {"name": "E4T", "method": "e4t", "init": "release", "steps": [0, 1]},
]


@pytest.fixture(scope="module")
def recipe(album: PrepareConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    copy_mlflow_database(folder / "runs")
    data = {
        "source": album.source, "output": album.output, "domain": "person",
        "resolution": 64, "format": "png", "shard_samples": 20,
    }  # fmt: skip
    settings = {
        "name": "album",
        "runs": str(folder / "runs"),
        "base": {"model": str(ROOT / "models" / "base")},
        "data": data,
        "conditioning": {"domain_word": "person", "templates": ["a portrait of a *s"]},
        "tune": {"batch_size": 1},
        "sample": {"num_inference_steps": 2},
        "evaluate": {"num_concepts": 2, "num_grid_concepts": 1, "num_prompts": 1},
        "compare": {"systems": SYSTEMS},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder / "recipe.yaml"


def arguments(recipe: Path) -> list[str]:
    release, output = ROOT / "models" / "faces", recipe.parent / "out"
    return ["compare", "--recipe", str(recipe), "--release", str(release), "--output", str(output)]


def run(e4t: E4T, recipe: Path, *more: str) -> tuple[int, str, str]:
    return e4t(*arguments(recipe), *more)


@pytest.fixture(scope="module")
def output(recipe: Path) -> Path:
    """The folder that the command has written; it uses the results of an earlier test."""
    assert main(arguments(recipe)) == 0
    return recipe.parent / "out"


def test_ranks_compute_results_and_the_present_stage_writes_the_report(e4t: E4T, recipe: Path) -> None:
    assert run(e4t, recipe, "--stage", "work", "--rank", "0", "--world-size", "2")[0] == 0
    code, _, err = run(e4t, recipe, "--stage", "present")
    assert (code, "lacks 3 results" in err) == (1, True)
    assert run(e4t, recipe, "--stage", "work", "--rank", "1", "--world-size", "2")[0] == 0
    code, out, err = run(e4t, recipe, "--stage", "present")
    assert code == 0, err
    written = {path.name for path in (recipe.parent / "out").iterdir()}
    plots = {f"{name}.{kind}" for name in ("figure", "trade-off", "similarity-by-seconds") for kind in ("png", "pdf")}
    assert written == {"results", "report.json", "scores.csv", "table.md", "report.html", *plots}
    assert "figure.png" in out


@pytest.mark.long
def test_a_second_call_writes_an_identical_report(e4t: E4T, recipe: Path, output: Path) -> None:
    report = output / "report.json"
    first = report.read_text()
    assert run(e4t, recipe)[0] == 0
    assert report.read_text() == first


def test_the_report_holds_every_system_and_the_release(output: Path) -> None:
    report = json.loads((output / "report.json").read_text())
    rows = [(row["system"], row["steps"]) for row in report["systems"]]
    assert rows == [*((each["name"], steps) for each in SYSTEMS for steps in each.get("steps", [0])), (REFERENCE, 0)]
    similarities = [row["scores"]["reference_similarity"]["mean"] for row in report["systems"]]
    assert max(similarities) == similarities[-1], "reference images are most similar to themselves"
    assert [release["identity"] for release in report["releases"].values()] == ["faces 1.0.1"]


def test_the_html_report_needs_no_other_files(output: Path) -> None:
    page = (output / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count('src="data:image/png;base64,') == 3
    assert all(each["name"] in page for each in SYSTEMS)


def test_the_figure_has_a_column_for_each_system(output: Path) -> None:
    with Image.open(output / "figure.png") as figure:
        assert figure.width > figure.height  # 5 columns and a label column; 2 rows


def test_scores_are_logged_to_mlflow(output: Path) -> None:
    client = connect(output.parent / "runs")
    [newest, *_] = client.search_runs([client.get_experiment_by_name("e4t").experiment_id])
    assert newest.data.tags["e4t.release"] == "faces 1.0.1"
    assert newest.data.metrics["E4T/concept_similarity"] > 0
