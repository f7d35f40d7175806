"""A tracker that is a file, is not there, or never answers; a hub that nobody reaches."""

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
    """The address of a server that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def closed() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def found_by(look, runs: Path) -> CheckResult:
    (found,) = run_checks(
        [Check(name="it", run=look, timeout_seconds=40, remedy="")], JobRequirements(runs=runs, nproc=2)
    )
    return found


def test_a_tracking_file_answers_and_one_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    found = found_by(check_mlflow, tmp_path / "runs")
    assert found.status == "ok"
    assert "which the first run makes" in found.detail
    assert not (tmp_path / "runs").exists()
    connect(tmp_path / "runs").create_experiment("e4t")
    found = found_by(check_mlflow, tmp_path / "runs")
    assert (found.status, "answers in" in found.detail) == ("ok", True)


def test_a_tracker_that_nobody_answers_for_is_a_note_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s3cr3t@{closed()}")
    found = found_by(check_mlflow, tmp_path)
    assert found.status == "note"
    assert "***@127.0.0.1" in found.detail
    assert "s3cr3t" not in str(found)


def test_a_tracker_that_accepts_and_never_answers_costs_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{silent}")
    found = found_by(check_mlflow, tmp_path)
    assert found.status == "note"
    assert "does not answer" in found.detail


def test_a_hub_that_accepts_and_never_answers_costs_seconds_and_the_token_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://{silent}")
    monkeypatch.setenv("HF_TOKEN", "hf_s3cr3t")
    begin = time.monotonic()
    found = found_by(check_hub, tmp_path)
    assert time.monotonic() - begin < 20
    assert found.status == "note"
    assert "a token is set" in found.detail
    assert "s3cr3t" not in str(found)


def test_a_hub_that_is_switched_off_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = found_by(check_hub, tmp_path)
    assert (found.status, "HF_HUB_OFFLINE" in found.detail) == ("ok", True)
