"""Tests of the tables that commands print."""

from rich.console import Console

from pipelines.cli.tables import report_table
from pipelines.config.renamed import RENAMED_KEYS
from pipelines.evaluation.report import Estimate, Report, Row


def test_a_report_with_every_score_fits_into_120_columns() -> None:
    scores = dict.fromkeys(RENAMED_KEYS["publish.min_scores"].values(), Estimate(0.5, 0.4, 0.6))
    row = Row("Textual Inversion + DreamBooth, 5 images", 30, 5, scores, Estimate(1234.5, 1000.0, 2000.0), 1.5)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(report_table(Report(recipe={}, releases={}, environment={}, concepts={}, rows=[row])))
    lines = capture.get().splitlines()
    words = " ".join(lines).split()
    assert words.count("similarity") == 5
    assert words.count("accuracy") == 2
    assert words.count("0.500") == len(scores)
    assert {"rmse", "seconds", "1234.5"} <= set(words)
