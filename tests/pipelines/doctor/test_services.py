"""MLflow as a file, missing or hanging; a hub that cannot be reached."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.doctor.check import Check, CheckResult, JobRequirements
from pipelines.doctor.runner import run_checks
from pipelines.doctor.services import check_hub, check_mlflow
from pipelines.tracking.client import connect


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that accepts connections and never responds."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def closed() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def result_of(look, runs: Path) -> CheckResult:
    (result,) = run_checks(
        [Check(name="it", run=look, timeout_seconds=40, remedy="")], JobRequirements(runs=runs, nproc=2)
    )
    return result


def test_a_tracking_file_responds_and_a_missing_one_is_not_created(tmp_path: Path) -> None:
    result = result_of(check_mlflow, tmp_path / "runs")
    assert result.status == "ok"
    assert "the first run creates it" in result.detail
    assert not (tmp_path / "runs").exists()
    connect(tmp_path / "runs").create_experiment("e4t")
    result = result_of(check_mlflow, tmp_path / "runs")
    assert (result.status, "responds in" in result.detail) == ("ok", True)


def test_an_unreachable_tracker_is_a_warning_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s3cr3t@{closed()}")
    result = result_of(check_mlflow, tmp_path)
    assert result.status == "warn"
    assert "***@127.0.0.1" in result.detail
    assert "s3cr3t" not in str(result)


def test_a_hanging_tracker_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{silent}")
    result = result_of(check_mlflow, tmp_path)
    assert result.status == "warn"
    assert "does not respond" in result.detail


def test_a_hanging_hub_times_out_and_the_token_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://{silent}")
    monkeypatch.setenv("HF_TOKEN", "hf_s3cr3t")
    begin = time.monotonic()
    result = result_of(check_hub, tmp_path)
    assert time.monotonic() - begin < 20
    assert result.status == "warn"
    assert "a token is set" in result.detail
    assert "s3cr3t" not in str(result)


def test_an_offline_hub_is_not_contacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = result_of(check_hub, tmp_path)
    assert (result.status, "HF_HUB_OFFLINE" in result.detail) == ("ok", True)
