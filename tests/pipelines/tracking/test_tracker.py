"""The tracker with real MLflow: a file, and a server that is killed and started again."""

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
from pipelines.tracking.tracker import RUN_ID_FILE, Tracker, has_unsent_after_end
from tests.pipelines.mlflow_server import Server, free_port, wait_for


@pytest.fixture(autouse=True)
def _own_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setattr(tracking, "MAX_BACKOFF", 1.0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs with a space in its name. All tests share its database, which takes seconds to create."""
    return tmp_path_factory.mktemp("all runs")


@pytest.fixture
def client(runs: Path) -> MlflowClient:
    return connect(runs)


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the tracking URI to an address where no server listens, and let ``close`` not wait. Returns the address."""
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT", 0.0)
    return address


def make_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the tracking URI to the SQLite file again."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT", 60.0)


def start_tracker(runs: Path, folder: Path, name: str) -> Tracker:
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


def test_everything_that_a_run_logs_is_in_mlflow(
    runs: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(runs, "one")
    tracker = start_tracker(runs, folder, "one")
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


def test_a_resumed_run_continues_the_same_mlflow_run(runs: Path, client: MlflowClient) -> None:
    folder = folder_of(runs, "two")
    first = start_tracker(runs, folder, "two")
    first.log_params({"pretrain.max_steps": 100})
    first.close("KILLED")
    assert client.get_run(first.run_id).info.status == "KILLED"
    second = start_tracker(runs, folder, "two")
    wait_for(lambda: client.get_run(first.run_id).info.status == "RUNNING")
    second.log_params({"pretrain.max_steps": 200, "pretrain.keep_last": 2})
    second.close("FINISHED")
    assert second.run_id == first.run_id == (folder / RUN_ID_FILE).read_text().strip()
    assert client.get_run(second.run_id).data.params == {"pretrain.max_steps": "100", "pretrain.keep_last": "2"}


def test_a_run_that_mlflow_does_not_know_is_created_again(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(runs, "three")
    (folder / RUN_ID_FILE).write_text("0123456789abcdef0123456789abcdef\n")
    tracker = start_tracker(runs, folder, "three")
    tracker.close("FINISHED")
    assert warnings_in(caplog) == []
    assert (folder / RUN_ID_FILE).read_text().strip() == tracker.run_id != "0123456789abcdef0123456789abcdef"


def test_an_entry_that_mlflow_rejects_is_dropped_with_a_warning(
    runs: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(runs, "four")
    tracker = start_tracker(runs, folder, "four")
    tracker.log_metrics(1, {"loss": 1.0})
    tracker.set_tags({"no\nname": "for a tag"})
    tracker.log_artifact(folder / "nothing.png", "samples")
    tracker.log_metrics(2, {"loss": 1.0})
    tracker.close("FINISHED")
    rejected = [line for line in warnings_in(caplog) if "rejected an entry" in line]
    assert rejected == warnings_in(caplog)
    assert len(rejected) == 2
    assert steps_of(client, tracker.run_id) == [1, 2]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_unreachable_mlflow_is_reported_once_and_again_at_the_end(
    unreachable: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = start_tracker(tmp_path, tmp_path, "run")
    for step in range(100):
        tracker.log_metrics(step, {"loss": 1.0})
    wait_for(lambda: bool(warnings_in(caplog)))
    tracker.close("FAILED")
    first, last = warnings_in(caplog)
    assert f"MLflow at {unreachable} unreachable (" in first
    assert "metrics are queued" in first
    assert f"102 entries not sent to MLflow at {unreachable}; queued in {tmp_path}" in last
    assert "\n" not in first + last
    assert not (tmp_path / RUN_ID_FILE).exists()


def test_queued_entries_are_sent_by_the_next_attempt(
    unreachable: str, runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(runs, "five")
    first = start_tracker(runs, folder, "five")
    first.log_params({"pretrain.max_steps": 100})
    first.log_metrics(1, {"loss": 1.0})
    first.close("KILLED")
    first._thread.join()
    make_reachable(monkeypatch)
    second = start_tracker(runs, folder, "five")
    second.log_metrics(2, {"loss": 0.5})
    second.close("FINISHED")
    assert any("entries not sent" in line for line in warnings_in(caplog))
    client = connect(runs)
    assert steps_of(client, second.run_id) == [1, 2]
    assert client.get_run(second.run_id).data.params == {"pretrain.max_steps": "100"}
    assert client.get_run(second.run_id).info.status == "FINISHED"


def test_more_metrics_than_mlflow_accepts_in_one_call_are_sent_in_several(
    unreachable: str, runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(runs, "six")
    first = start_tracker(runs, folder, "six")
    for step in range(250):
        first.log_metrics(step, {"loss": 1.0, **{f"metric_{index}": 0.5 for index in range(9)}})
    first.close("KILLED")
    first._thread.join()
    make_reachable(monkeypatch)
    caplog.clear()
    second = start_tracker(runs, folder, "six")
    second.close("FINISHED")
    assert warnings_in(caplog) == []
    assert steps_of(connect(runs), second.run_id) == list(range(250))


def test_a_server_that_never_responds_does_not_block_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracker = start_tracker(tmp_path, tmp_path, "run")
        silent.settimeout(60)
        connection, _ = silent.accept()  # from here on the sender waits for a response
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


def test_entries_queued_while_a_server_was_down_are_sent_when_it_is_up_again(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "e4t")
    runs, folder = tmp_path / "runs", tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "image.png")
    tracker = start_tracker(runs, folder, "one")
    tracker.log_params({"pretrain.max_steps": 100})
    for step in range(3):
        tracker.log_metrics(step, {"loss": 1.0})
    client = connect(runs)
    wait_for(lambda: bool(tracker.run_id) and steps_of(client, tracker.run_id) == [0, 1, 2])
    server.kill()
    for step in range(3, 200):
        tracker.log_metrics(step, {"loss": 1.0, **{f"metric_{index}": 0.5 for index in range(9)}})
    tracker.log_artifact(folder / "image.png", "samples")
    wait_for(lambda: bool(warnings_in(caplog)))
    server.start()
    wait_for(lambda: steps_of(client, tracker.run_id) == list(range(200)))
    wait_for(lambda: bool(client.list_artifacts(tracker.run_id, "samples")))
    tracker.close("FINISHED")
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert len(warnings_in(caplog)) == 1
    assert caplog.messages[-1].endswith("reachable again; queue flushed")


def test_the_environment_variable_sets_the_tracking_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking_uri(tmp_path) == "http://tracker:5000"


def test_entries_that_an_earlier_version_queued_are_sent(runs: Path, client: MlflowClient) -> None:
    folder = folder_of(runs, "seven")
    queue = EventQueue(folder)
    queue.append({"kind": "status", "what": "RUNNING"})
    queue.append({"kind": "metrics", "what": [["loss", 0.5, 1_700_000_000_000, 3]]})
    queue.append({"kind": "on_versions", "what": {"name": "none", "tag": "a", "value": "b", "key": "c"}})
    queue.append({"kind": "status", "what": "KILLED"})
    assert has_unsent_after_end(folder)
    tracker = Tracker(runs, folder, "seven")
    tracker.close(None)
    assert tracker.num_pending() == 0
    assert steps_of(client, tracker.run_id) == [3]
    assert client.get_run(tracker.run_id).info.status == "KILLED"
