"""Tests of the schema of report.json and of the tables."""

import json
from pathlib import Path

import pytest

from pipelines.config.evaluation import PRETRAINED
from pipelines.evaluation.report import REFERENCE, REPORT_FILE, Estimate, EvaluatedRelease, Report, Row

ESTIMATE = Estimate(0.5, 0.4, 0.6)
SCORE_NAMES = {
    "likeness": "identity_similarity",
    "concept": "concept_similarity",
    "prompt": "prompt_similarity",
    "truth": "reference_similarity",
    "recognised": "recognizer_similarity",
    "pixels off": "rmse",
    "person": "identity_accuracy",
    "obeyed": "attribute_accuracy",
}


@pytest.fixture
def report() -> Report:
    scores = {"identity_similarity": ESTIMATE, "rmse": Estimate(0.1, 0.1, 0.1)}
    return Report(
        recipe={"name": "faces"},
        releases={"models/faces": EvaluatedRelease("faces 1.0.1", "a" * 64)},
        environment={"torch": "2"},
        concepts={"0001": ["a portrait of *s"]},
        rows=[
            Row(PRETRAINED, 15, 1, scores, Estimate(3.0, 2.0, 4.0), 1.5),
            Row(PRETRAINED, 0, 1, {name: Estimate(0.0, 0.0, 0.0) for name in scores}, ESTIMATE, 1.5),
            Row(REFERENCE, 0, 1, scores, Estimate(0.0, 0.0, 0.0), 0.0),
        ],
    )


def test_a_saved_report_loads_unchanged(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    keys = json.loads((tmp_path / REPORT_FILE).read_text()).keys()
    assert keys == {"recipe", "releases", "environment", "concepts", "systems"}


def test_a_report_with_old_score_names_loads_with_current_ones(report: Report, tmp_path: Path) -> None:
    data = report.to_dict()
    data["systems"] = [
        {
            "system": "the true pictures", "steps": 0, "pictures": 1, "peak_gib": 0.0, "seconds": vars(ESTIMATE),
            "scores": {old: vars(ESTIMATE) for old in SCORE_NAMES},
        }
    ]  # fmt: skip
    (tmp_path / REPORT_FILE).write_text(json.dumps(data))
    loaded = Report.load(tmp_path)
    assert loaded
    assert loaded.rows == [Row(REFERENCE, 0, 1, dict.fromkeys(SCORE_NAMES.values(), ESTIMATE), ESTIMATE, 0.0)]


def test_final_scores_are_those_of_the_release_after_the_most_steps(report: Report) -> None:
    assert report.final_scores["identity_similarity"] == ESTIMATE


def test_the_table_has_a_line_per_row_and_no_costs_for_reference_images(report: Report) -> None:
    header, _, *lines = report.markdown().splitlines()
    assert header == "| system | steps | identity similarity | rmse | seconds | memory, GiB |"
    assert lines[0] == "| pretrained | 15 | 0.500 ± 0.100 | 0.100 ± 0.000 | 3.0 | 1.50 |"
    assert lines[-1] == "| reference images | 0 | 0.500 ± 0.100 | 0.100 ± 0.000 |  |  |"
