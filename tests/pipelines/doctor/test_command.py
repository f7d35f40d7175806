"""``e4t doctor``: its table, its JSON file, its exit code; neither output contains a secret."""

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
def _long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extend every timeout, because other tests load the machine."""
    monkeypatch.setattr(checks, "CHECKS", [replace(check, timeout_seconds=120) for check in checks.CHECKS])


@pytest.mark.usefixtures("_long_timeouts")
@pytest.mark.distributed
def test_a_failed_check_exits_with_1_names_the_reason_and_prints_no_secret(
    e4t: E4T, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_s3cr3t")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "ml_s3cr3t")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pw_s3cr3t@127.0.0.1:9")
    code, out, err = e4t("doctor", "--runs", "/proc/e4t", "--json", tmp_path / "doctor.json")
    assert (code, err) == (1, "")
    assert "failed: runs folder" in out
    found = {each["name"]: each for each in json.loads((tmp_path / "doctor.json").read_text())}
    assert found["runs folder"]["status"] == "fail"
    assert found["runs folder"]["remedy"]
    assert "***@127.0.0.1:9" in found["mlflow"]["detail"]
    assert "s3cr3t" not in out + (tmp_path / "doctor.json").read_text()


@pytest.mark.usefixtures("_long_timeouts")
@pytest.mark.distributed
def test_a_machine_that_can_run_the_job_exits_with_0(e4t: E4T, tmp_path: Path) -> None:
    code, out, _ = e4t("doctor", "--runs", tmp_path, "--json", tmp_path / "doctor.json")
    states = {each["name"]: each["status"] for each in json.loads((tmp_path / "doctor.json").read_text())}
    assert (code, "this machine can run the job" in out) == (0, True), states


def test_zero_ranks_are_refused(e4t: E4T) -> None:
    code, _, err = e4t("doctor", "--nproc", "0")
    assert (code, "--nproc is 0" in err) == (78, True)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_is_complete_at_any_terminal_width(columns: int) -> None:
    results = [
        CheckResult(name="disk", status="ok", detail="fast [bold]and[/bold] large"),
        CheckResult(name="hub", status="warn", detail="x" * 200, remedy="do this"),
    ]
    console = Console(width=columns)
    with console.capture() as captured:
        console.print(format_results(results))
    output = captured.get()
    assert "[bold]and[/bold]" in output
    assert output.count("x") == 200
    assert "-> do this" in output
    assert all(asdict(each)["name"] in output for each in results)
