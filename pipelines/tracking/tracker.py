"""Send parameters, metrics, files and datasets to MLflow in the background. MLflow may be unreachable meanwhile."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.storage.atomic import atomic_write
from pipelines.tracking.client import connect, first_line, get_or_create_experiment, redacted_uri
from pipelines.tracking.event_queue import EventQueue

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("e4t")
MIN_BACKOFF, MAX_BACKOFF = 1.0, 60.0
"""Seconds between attempts to reach MLflow: the first delay, which doubles each time, and the longest."""
RUN_ID_FILE = "run_id"
"""File in a tracker's folder that holds the id of its MLflow run."""
CLOSE_TIMEOUT = 30.0
"""Seconds that ``close`` waits for queued entries to be sent."""
SEND_BATCH_SIZE = 500
"""Entries that are read from the queue and sent together."""
MAX_METRICS_PER_CALL, MAX_PARAMS_PER_CALL, MAX_PARAM_LENGTH, MAX_DIGEST_LENGTH = 1000, 100, 6000, 36
"""Limits of MLflow."""
Send = Callable[["MlflowClient", str, Any], None]


class Tracker:
    """One MLflow run, which is continued when its stage is resumed. No method raises, and only ``close`` waits.

    Entries are written to a queue on disk, and a thread sends them. While MLflow is slow or unreachable they stay
    queued; they are sent when it is reachable again, if need be by the next attempt of the stage.
    """

    def __init__(self, runs: Path | str, folder: Path, run_name: str) -> None:
        """``folder`` belongs to this tracker: it holds the id of the MLflow run and the queue."""
        self.redacted_uri, self.run_id = redacted_uri(runs), ""
        self._runs, self._folder, self._run_name = Path(runs), folder, run_name
        self._client: MlflowClient | None = None
        self._queue = EventQueue(folder)
        self._closing, self._wake = threading.Event(), threading.Event()
        self._close_deadline = math.inf
        self._unreachable = False
        self._thread = threading.Thread(target=self._run_sender, name="tracker", daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Set the run's status to RUNNING."""
        self._enqueue("status", "RUNNING")

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters. Those that the run already has are not changed, because MLflow forbids it."""
        self._enqueue("params", {key: str(value)[:MAX_PARAM_LENGTH] for key, value in values.items()})

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._enqueue("tags", dict(values))

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._enqueue("metrics", [[key, float(value), int(time.time() * 1000), step] for key, value in values.items()])

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log the dataset that the run reads or creates. Lineage is traced by ``digest``, that of its manifest."""
        self._enqueue("dataset", {"name": name, "digest": digest, "source": source, "context": context})

    def log_artifact(self, path: Path, artifact_folder: str = "") -> None:
        """Log a file, such as an image, in a folder of the run's artifacts."""
        self._enqueue("file", {"path": str(path.resolve()), "folder": artifact_folder})

    def tag_model_versions(self, name: str, tag: str, value: str, key: str) -> None:
        """Set this run's id as tag ``key`` of the registered model versions of ``name`` whose ``tag`` has ``value``."""
        self._enqueue("model_version_tags", {"name": name, "tag": tag, "value": value, "key": key})

    def close(self, status: str | None) -> None:
        """End the run, and wait up to ``CLOSE_TIMEOUT`` seconds until everything is sent.

        ``status`` is FINISHED, FAILED, or KILLED for a run that will be resumed; None leaves it unchanged.
        """
        if status:
            self._enqueue("status", status)
        self._close_deadline = time.monotonic() + CLOSE_TIMEOUT
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_TIMEOUT)
        if num_pending := self.num_pending():
            log.warning(
                "%d entries not sent to MLflow at %s; queued in %s, rerun the command to send them",
                num_pending, self.redacted_uri, self._queue.folder,
            )  # fmt: skip

    def num_pending(self) -> int:
        """Return the number of entries that have not been sent."""
        return self._queue.pending()

    def _enqueue(self, kind: str, payload: object) -> None:
        try:
            self._queue.append({"kind": kind, "payload": payload})
        except OSError as error:
            log.warning(
                "cannot queue an entry for MLflow (%s); it is lost there, but metrics.jsonl has all metrics",
                error.strerror,
            )
        self._wake.set()

    def _run_sender(self) -> None:
        """Send all entries in order, until the tracker is closed and the queue is empty or the deadline has passed."""
        backoff = MIN_BACKOFF
        while not self._closing.is_set() or (self._queue.pending() and time.monotonic() < self._close_deadline):
            self._wake.clear()
            try:
                self._client = self._client or self._connect()
                while batch := self._queue.peek(SEND_BATCH_SIZE):
                    self._send_batch(self._client, batch)
                    self._queue.ack()
                self._on_reachable()
                backoff = MIN_BACKOFF
            except Exception as error:
                self._on_unreachable(error)
                self._closing.wait(backoff)
                backoff = min(2 * backoff, MAX_BACKOFF)
                if self._closing.is_set():
                    time.sleep(MIN_BACKOFF)
                continue
            if not self._closing.is_set():
                self._wake.wait()

    def _send_batch(self, client: "MlflowClient", entries: list[dict[str, Any]]) -> None:
        """Send entries, all metrics in one call. Warn of and drop one that MLflow rejects permanently."""
        metrics = [metric for entry in entries if entry["kind"] == "metrics" for metric in _payload(entry)]
        sends: list[tuple[Send, Any]] = [(_send_metrics, metrics)] if metrics else []
        sends += [(_SENDERS[entry["kind"]], _payload(entry)) for entry in entries if entry["kind"] != "metrics"]
        for send, payload in sends:
            try:
                send(client, self.run_id, payload)
            except Exception as error:
                if not _is_permanent(error):
                    raise
                log.warning("MLflow at %s rejected an entry (%s); it is dropped", self.redacted_uri, first_line(error))

    def _connect(self) -> "MlflowClient":
        client = connect(self._runs)
        known = read_run_id(self._folder)
        if known and _has_run(client, known):
            self.run_id = known
        else:
            self.run_id = client.create_run(
                get_or_create_experiment(client, self._runs), run_name=self._run_name
            ).info.run_id
            atomic_write(self._folder / RUN_ID_FILE, self.run_id + "\n")
        return client

    def _on_unreachable(self, error: Exception) -> None:
        if not self._unreachable:
            log.warning(
                "MLflow at %s unreachable (%s); metrics are queued",
                self.redacted_uri,
                first_line(error),
            )
        self._unreachable = True

    def _on_reachable(self) -> None:
        if self._unreachable:
            log.info("MLflow at %s reachable again; queue flushed", self.redacted_uri)
        self._unreachable = False


def read_run_id(folder: Path) -> str | None:
    """Return the MLflow run id of the tracker with this folder, or None if MLflow has not been reached yet."""
    marker = folder / RUN_ID_FILE
    return marker.read_text().strip() if marker.exists() else None


def has_unsent_after_end(folder: Path) -> bool:
    """Return whether the tracker with this folder has ended without having sent everything."""
    return has_ended(folder) and EventQueue(folder).pending() > 0


def has_ended(folder: Path) -> bool:
    """Return whether the tracker with this folder has set a final status, sent or not."""
    entry = EventQueue(folder).last()
    return entry is not None and entry["kind"] == "status" and _payload(entry) != "RUNNING"


def _payload(entry: dict[str, Any]) -> Any:  # noqa: ANN401 - what a sender takes
    """Return the payload of a queued entry, which earlier versions of e4t called ``what``."""
    return entry["payload"] if "payload" in entry else entry["what"]


def _send_params(client: "MlflowClient", run_id: str, values: dict[str, str]) -> None:
    from mlflow.entities import Param

    existing = client.get_run(run_id).data.params
    new = [Param(key, value) for key, value in values.items() if key not in existing]
    for start in range(0, len(new), MAX_PARAMS_PER_CALL):
        client.log_batch(run_id, params=new[start : start + MAX_PARAMS_PER_CALL])


def _send_tags(client: "MlflowClient", run_id: str, values: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])


def _send_metrics(client: "MlflowClient", run_id: str, values: list[list[Any]]) -> None:
    from mlflow.entities import Metric

    for start in range(0, len(values), MAX_METRICS_PER_CALL):
        client.log_batch(run_id, [Metric(*value) for value in values[start : start + MAX_METRICS_PER_CALL]])


def _send_dataset(client: "MlflowClient", run_id: str, payload: dict[str, str]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = Dataset(
        payload["name"], payload["digest"][:MAX_DIGEST_LENGTH], "local", json.dumps({"uri": payload["source"]})
    )
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", payload["context"])])])
    client.set_tag(run_id, "e4t.data_manifest", payload["digest"])


def _send_artifact(client: "MlflowClient", run_id: str, payload: dict[str, str]) -> None:
    client.log_artifact(run_id, payload["path"], payload["folder"] or None)


def _send_model_version_tags(client: "MlflowClient", run_id: str, payload: dict[str, str]) -> None:
    for version in client.search_model_versions(f"name = '{payload['name']}'"):
        if version.tags.get(payload["tag"]) == payload["value"]:
            client.set_model_version_tag(payload["name"], version.version, payload["key"], run_id)


def _send_status(client: "MlflowClient", run_id: str, status: str) -> None:
    if status == "RUNNING":
        client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status)


_SENDERS: dict[str, Send] = {
    "params": _send_params,
    "tags": _send_tags,
    "dataset": _send_dataset,
    "file": _send_artifact,
    "model_version_tags": _send_model_version_tags,
    "on_versions": _send_model_version_tags,  # queued by an earlier version of e4t
    "status": _send_status,
}


def _is_permanent(error: Exception) -> bool:
    """Return whether a retry cannot succeed: MLflow rejected the request, or the file is gone."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())
        return 400 <= status < 500 and status not in (401, 403, 408, 429)
    return isinstance(error, FileNotFoundError)


def _has_run(client: "MlflowClient", run_id: str) -> bool:
    """Return whether MLflow has the run; it has not if its database was deleted or replaced."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
