"""MLflow for real, as a file and as a server that comes and goes; training must not notice."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines.tracking import tracker as tracking
from pipelines.tracking.client import connect, tracking_uri
from pipelines.tracking.event_queue import EventQueue
from pipelines.tracking.tracker import RUN_ID_FILE, Tracker
from tests.pipelines.mlflow_server import Server, free_port, wait_for


@pytest.fixture(autouse=True)
def _own_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setattr(tracking, "LONGEST_PAUSE", 1.0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a space in its name; laying out a database takes seconds, so one serves all tests."""
    return tmp_path_factory.mktemp("all runs")


@pytest.fixture
def client(runs: Path) -> MlflowClient:
    return connect(runs)


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a tracker where nobody answers, which is the environment's; nobody waits for it at the end."""
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(tracking, "PATIENCE", 0.0)
    return address


def back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a tracker again: the file."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(tracking, "PATIENCE", 60.0)


def begun(runs: Path, folder: Path, name: str) -> Tracker:
    tracker = Tracker(runs, folder, name)
    tracker.start()
    return tracker


def folder_of(runs: Path, name: str) -> Path:
    (runs / name).mkdir()
    return runs / name


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def steps_of(client: MlflowClient, run_id: str, key: str = "loss") -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, key)]


def test_everything_that_a_run_logs_is_found_again(
    runs: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(runs, "one")
    tracker = begun(runs, folder, "one")
    tracker.log_params({f"recipe.key_{index}": index for index in range(150)} | {"long": "x" * 9000})
    tracker.set_tags({"e4t.stage": "pretrain"})
    tracker.log_metrics(10, {"loss": 0.5})
    tracker.log_metrics(20, {"loss": 0.25})
    tracker.log_dataset("person", "a" * 64, "data/shards", "training")
    Image.new("RGB", (4, 4)).save(folder / "step_00000010.png")
    tracker.log_artifact(folder / "step_00000010.png", "samples")
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
    first = begun(runs, folder, "two")
    first.log_params({"pretrain.max_steps": 100})
    first.close("KILLED")
    assert client.get_run(first.run_id).info.status == "KILLED"
    second = begun(runs, folder, "two")
    wait_for(lambda: client.get_run(first.run_id).info.status == "RUNNING")
    second.log_params({"pretrain.max_steps": 200, "pretrain.keep_last": 2})
    second.close("FINISHED")
    assert second.run_id == first.run_id == (folder / RUN_ID_FILE).read_text().strip()
    assert client.get_run(second.run_id).data.params == {"pretrain.max_steps": "100", "pretrain.keep_last": "2"}


def test_a_run_that_the_tracker_has_forgotten_is_begun_anew(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(runs, "three")
    (folder / RUN_ID_FILE).write_text("0123456789abcdef0123456789abcdef\n")
    tracker = begun(runs, folder, "three")
    tracker.close("FINISHED")
    assert warnings_in(caplog) == []
    assert (folder / RUN_ID_FILE).read_text().strip() == tracker.run_id != "0123456789abcdef0123456789abcdef"


def test_an_entry_that_the_tracker_refuses_is_left_out_with_a_warning(
    runs: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(runs, "four")
    tracker = begun(runs, folder, "four")
    tracker.log_metrics(1, {"loss": 1.0})
    tracker.set_tags({"no\nname": "for a tag"})
    tracker.log_artifact(folder / "nothing.png", "samples")
    tracker.log_metrics(2, {"loss": 1.0})
    tracker.close("FINISHED")
    said = [line for line in warnings_in(caplog) if "refuses an entry" in line]
    assert said == warnings_in(caplog)
    assert len(said) == 2
    assert steps_of(client, tracker.run_id) == [1, 2]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_a_tracker_that_is_not_there_costs_a_warning_and_another_at_the_end(
    dead: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begun(tmp_path, tmp_path, "run")
    for step in range(100):
        tracker.log_metrics(step, {"loss": 1.0})
    wait_for(lambda: bool(warnings_in(caplog)))
    tracker.close("FAILED")
    away, lacks = warnings_in(caplog)
    assert f"{dead} is away (" in away
    assert "training goes on" in away
    assert f"{dead} lacks 102 entries; they wait in {tmp_path}" in lacks
    assert "\n" not in away + lacks
    assert not (tmp_path / RUN_ID_FILE).exists()


def test_what_nobody_took_is_sent_by_the_next_sitting(
    dead: str, runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(runs, "five")
    first = begun(runs, folder, "five")
    first.log_params({"pretrain.max_steps": 100})
    first.log_metrics(1, {"loss": 1.0})
    first.close("KILLED")
    first._thread.join()
    back(monkeypatch)
    second = begun(runs, folder, "five")
    second.log_metrics(2, {"loss": 0.5})
    second.close("FINISHED")
    assert any("lacks" in line for line in warnings_in(caplog))
    client = connect(runs)
    assert steps_of(client, second.run_id) == [1, 2]
    assert client.get_run(second.run_id).data.params == {"pretrain.max_steps": "100"}
    assert client.get_run(second.run_id).info.status == "FINISHED"


def test_more_than_a_tracker_takes_at_once_is_sent_in_parts(
    dead: str, runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(runs, "six")
    first = begun(runs, folder, "six")
    for step in range(250):
        first.log_metrics(step, {"loss": 1.0, **{f"metric_{index}": 0.5 for index in range(9)}})
    first.close("KILLED")
    first._thread.join()
    back(monkeypatch)
    caplog.clear()
    second = begun(runs, folder, "six")
    second.close("FINISHED")
    assert warnings_in(caplog) == []
    assert steps_of(connect(runs), second.run_id) == list(range(250))


def test_a_tracker_that_takes_calls_and_never_answers_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")
    monkeypatch.setattr(tracking, "PATIENCE", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracker = begun(tmp_path, tmp_path, "run")
        silent.settimeout(60)
        connection, _ = silent.accept()  # the sender waits for an answer from here on
        with connection:
            tracker.log_metrics(1, {"loss": 1.0})
            tracker.log_artifact(tmp_path / "nothing.png", "samples")
            tracker.close("FINISHED")
    assert [entry["kind"] for entry in EventQueue(tmp_path).peek(9)] == [
        "status",
        "metrics",
        "file",
        "status",
    ]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    yield server
    server.kill()


def test_a_server_that_dies_is_told_when_it_is_back_what_it_has_missed(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "e4t")
    runs, folder = tmp_path / "runs", tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "picture.png")
    tracker = begun(runs, folder, "one")
    tracker.log_params({"pretrain.max_steps": 100})
    for step in range(3):
        tracker.log_metrics(step, {"loss": 1.0})
    client = connect(runs)
    wait_for(lambda: bool(tracker.run_id) and steps_of(client, tracker.run_id) == [0, 1, 2])
    server.kill()
    for step in range(3, 200):
        tracker.log_metrics(step, {"loss": 1.0, **{f"metric_{index}": 0.5 for index in range(9)}})
    tracker.log_artifact(folder / "picture.png", "samples")
    wait_for(lambda: bool(warnings_in(caplog)))
    server.start()
    wait_for(lambda: steps_of(client, tracker.run_id) == list(range(200)))
    wait_for(lambda: bool(client.list_artifacts(tracker.run_id, "samples")))
    tracker.close("FINISHED")
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert len(warnings_in(caplog)) == 1
    assert caplog.messages[-1].endswith("is back, and has been told what it missed")


def test_the_environment_chooses_the_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking_uri(tmp_path) == "http://tracker:5000"
