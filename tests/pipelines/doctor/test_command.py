"""The command: one screen, a file, an exit code, and no secret in either."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.doctor import checks
from pipelines.doctor.check import CheckResult
from pipelines.doctor.report import format_results

E4T = Callable[..., tuple[int, str, str]]


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine that is busy with other tests."""
    monkeypatch.setattr(checks, "CHECKS", [replace(check, seconds=120) for check in checks.CHECKS])


@pytest.mark.usefixtures("_patient")
@pytest.mark.slow
@pytest.mark.distributed
def test_a_broken_machine_ends_in_1_says_why_and_tells_no_secret(
    e4t: E4T, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_s3cr3t")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "ml_s3cr3t")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pw_s3cr3t@127.0.0.1:9")
    code, out, err = e4t("doctor", "--runs", "/proc/e4t", "--json", tmp_path / "doctor.json")
    assert (code, err) == (1, "")
    assert "broken: runs folder" in out
    found = {each["what"]: each for each in json.loads((tmp_path / "doctor.json").read_text())}
    assert found["runs folder"]["state"] == "broken"
    assert found["runs folder"]["remedy"]
    assert "***@127.0.0.1:9" in found["mlflow"]["found"]
    assert "s3cr3t" not in out + (tmp_path / "doctor.json").read_text()


@pytest.mark.usefixtures("_patient")
@pytest.mark.slow
@pytest.mark.distributed
def test_a_machine_that_can_do_the_job_ends_in_0(e4t: E4T, tmp_path: Path) -> None:
    code, out, _ = e4t("doctor", "--runs", tmp_path, "--json", tmp_path / "doctor.json")
    states = {each["what"]: each["state"] for each in json.loads((tmp_path / "doctor.json").read_text())}
    assert (code, "this machine can do the job" in out) == (0, True), states


def test_no_ranks_are_refused(e4t: E4T) -> None:
    code, _, err = e4t("doctor", "--nproc", "0")
    assert (code, "--nproc is 0" in err) == (78, True)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_screen_has_everything_at_any_width(columns: int) -> None:
    findings = [
        CheckResult(name="disk", status="ok", detail="fast [bold]and[/bold] large"),
        CheckResult(name="hub", status="note", detail="x" * 200, remedy="do this"),
    ]
    console = Console(width=columns)
    with console.capture() as captured:
        console.print(format_results(findings))
    said = captured.get()
    assert "[bold]and[/bold]" in said
    assert said.count("x") == 200
    assert "-> do this" in said
    assert all(asdict(each)["what"] in said for each in findings)
