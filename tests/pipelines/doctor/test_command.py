"""``e4t doctor``: its table, its JSON file, its exit code; neither output contains a secret."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.cli.main import main
from pipelines.doctor import checks
from pipelines.doctor.check import CheckResult
from pipelines.doctor.report import format_results

E4T = Callable[..., tuple[int, str, str]]


def extend_timeouts(patch: pytest.MonkeyPatch) -> None:
    """Extend every timeout, because other tests load the machine."""
    patch.setattr(checks, "CHECKS", [replace(check, timeout_seconds=120) for check in checks.CHECKS])


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, dict[str, dict[str, str]]]:
    """Exit code, output and results by name of one ``e4t doctor`` on this machine."""
    folder, output = tmp_path_factory.mktemp("doctor"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        extend_timeouts(patch)
        code = main(["doctor", "--runs", str(folder), "--json", str(folder / "doctor.json")])
    results = {each["name"]: each for each in json.loads((folder / "doctor.json").read_text())}
    return code, output.getvalue(), results


@pytest.mark.distributed
def test_a_failed_check_exits_with_1_names_the_reason_and_prints_no_secret(
    e4t: E4T, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extend_timeouts(monkeypatch)
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


@pytest.mark.distributed
def test_a_machine_that_can_run_the_job_exits_with_0(healthy: tuple[int, str, dict[str, dict[str, str]]]) -> None:
    code, out, results = healthy
    states = {name: result["status"] for name, result in results.items()}
    assert (code, "this machine can run the job" in out) == (0, True), states


@pytest.mark.distributed
def test_an_engine_takes_a_step_and_its_accelerator_is_reported(
    healthy: tuple[int, str, dict[str, dict[str, str]]],
) -> None:
    _, _, results = healthy
    assert results["deepspeed"]["status"] == "ok", results["deepspeed"]
    assert "a ZeRO-2 engine takes a step on" in results["deepspeed"]["detail"]
    assert "compiler" in results


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
