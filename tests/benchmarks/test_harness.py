from pathlib import Path

import pytest

from benchmarks.harness import measure_in_subprocess, summarize_ratios, time_interleaved, write_report


def test_every_candidate_runs_once_per_round_and_in_reverse_order_in_every_second() -> None:
    order: list[str] = []
    seconds = time_interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(each) for each in seconds.values()] == [3, 3]


def test_ratios_are_taken_round_by_round() -> None:
    assert summarize_ratios([2.0, 9.0, 8.0], [1.0, 3.0, 4.0]) == {"median": 2.0, "min": 2.0, "max": 3.0}


def test_a_failed_measurement_is_an_error_with_its_last_line() -> None:
    with pytest.raises(RuntimeError, match=r"No module named benchmarks\.nothing"):
        measure_in_subprocess("benchmarks.nothing")


def test_a_report_without_a_file_is_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_report({"rounds": 1}, {"seconds": 2.0}, None)
    write_report({"rounds": 1}, {"seconds": 2.0}, tmp_path / "report.json")
    assert '"settings": {"rounds": 1}, "seconds": 2.0' in capsys.readouterr().out
    assert '"seconds": 2.0' in (tmp_path / "report.json").read_text()
