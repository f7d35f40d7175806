"""MLflow for real, on sqlite; and a tracker that is not there, which training must not notice."""

import logging
import socket
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines.tracking import Tracker, connect, tracking_uri


@pytest.fixture(autouse=True)
def _own_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a space in its name; laying out a database takes seconds, so one serves all tests."""
    return tmp_path_factory.mktemp("all runs")


@pytest.fixture
def client(runs: Path) -> MlflowClient:
    return connect(runs)


def folder_of(runs: Path, name: str) -> Path:
    (runs / name).mkdir()
    return runs / name


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_everything_that_a_run_logs_is_found_again(
    runs: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(runs, "one")
    tracker = Tracker(runs, folder, "e4t", "one")
    tracker.params({f"recipe.key_{index}": index for index in range(150)} | {"long": "x" * 9000})
    tracker.tags({"e4t.stage": "pretrain"})
    tracker.metrics(10, {"loss": 0.5})
    tracker.metrics(20, {"loss": 0.25})
    tracker.dataset("person", "a" * 64, "data/shards")
    Image.new("RGB", (4, 4)).save(folder / "step_00000010.png")
    tracker.file(folder / "step_00000010.png", "samples")
    tracker.close("FINISHED")
    assert warnings_in(caplog) == []
    run = client.get_run(tracker.run_id)
    assert run.info.run_name == "one"
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 151
    assert run.data.tags["e4t.stage"] == "pretrain"
    assert run.data.tags["e4t.data_manifest"] == "a" * 64
    assert [(m.step, m.value) for m in client.get_metric_history(tracker.run_id, "loss")] == [(10, 0.5), (20, 0.25)]
    assert run.inputs.dataset_inputs[0].dataset.name == "person"
    assert [file.path for file in client.list_artifacts(tracker.run_id, "samples")] == ["samples/step_00000010.png"]
    assert (runs / "mlartifacts" / "e4t").is_dir()


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(runs: Path, client: MlflowClient) -> None:
    folder = folder_of(runs, "two")
    first = Tracker(runs, folder, "e4t", "two")
    first.params({"pretrain.steps": 100})
    first.close("KILLED")
    second = Tracker(runs, folder, "e4t", "two")
    assert second.run_id == first.run_id == (folder / "mlflow_run_id").read_text().strip()
    assert client.get_run(second.run_id).info.status == "RUNNING"
    second.params({"pretrain.steps": 200, "pretrain.keep": 2})
    assert client.get_run(second.run_id).data.params == {"pretrain.steps": "100", "pretrain.keep": "2"}


def test_a_run_that_the_tracker_has_forgotten_is_begun_anew(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(runs, "three")
    (folder / "mlflow_run_id").write_text("0123456789abcdef0123456789abcdef\n")
    tracker = Tracker(runs, folder, "e4t", "three")
    assert warnings_in(caplog) == []
    assert (folder / "mlflow_run_id").read_text().strip() == tracker.run_id != "0123456789abcdef0123456789abcdef"


def test_a_dead_tracker_costs_one_warning_and_little_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    tracker = Tracker(tmp_path, tmp_path, "e4t", "run")
    for step in range(100):
        tracker.metrics(step, {"loss": 1.0})
    tracker.params({"a": 1})
    tracker.file(tmp_path / "nothing.png", "samples")
    tracker.close("FINISHED")
    assert time.monotonic() - started < 10
    assert len(warnings_in(caplog)) == 1
    assert f"127.0.0.1:{port}" in warnings_in(caplog)[0]
    assert "\n" not in warnings_in(caplog)[0]
    assert not (tmp_path / "mlflow_run_id").exists()


def test_a_tracker_that_dies_in_the_middle_costs_one_warning(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(runs, folder_of(runs, "four"), "e4t", "four")
    tracker.metrics(1, {"loss": 1.0})
    tracker.run_id = "gone"
    tracker.metrics(2, {"loss": 1.0})
    tracker.file(runs / "nothing.png", "samples")
    tracker.close("FINISHED")
    assert len(warnings_in(caplog)) == 1
    assert "training goes on" in warnings_in(caplog)[0]


def test_the_environment_chooses_the_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking_uri(tmp_path) == "http://tracker:5000"
