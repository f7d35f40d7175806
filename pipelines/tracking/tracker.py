"""Telling MLflow: settings, metrics, files, the data set. It can be away; no stage waits for it but at its end."""

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.storage.atomic import atomic_write
from pipelines.tracking.event_queue import EventQueue

if TYPE_CHECKING:
    from mlflow import MlflowClient
from pipelines.tracking.client import connect, first_line, get_or_create_experiment, redacted_uri

log = logging.getLogger("e4t")
MIN_BACKOFF, MAX_BACKOFF = 1.0, 60.0
"""Seconds after a failure before the tracker is tried again; doubled each time."""
RUN_ID_FILE = "run_id"
"""File in a tracker's folder."""
CLOSE_TIMEOUT = 30.0
"""Seconds for which the end of a run waits for the tracker."""
SEND_BATCH_SIZE = 500
MAX_METRICS_PER_CALL, MAX_PARAMS_PER_CALL, MAX_PARAM_LENGTH, MAX_DIGEST_LENGTH = 1000, 100, 6000, 36
"""MLflow's own limits."""


Send = Callable[["MlflowClient", str, Any], None]


class Tracker:
    """One MLflow run, taken up again when the stage is. No method raises, and none waits but ``close``.

    What is to be logged goes into an outbox on the disk, and a thread sends it. A tracker that is slow or away leaves
    a gap that is filled when it is back, by the next sitting if need be.
    """

    def __init__(self, runs: Path | str, folder: Path, run_name: str) -> None:
        """``folder`` is the tracker's own: it holds the run's id, and what waits to be sent."""
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
        """Say that the run goes on."""
        self._enqueue("status", "RUNNING")

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; a run that is taken up again keeps those it has, as MLflow demands."""
        self._enqueue("params", {key: str(value)[:MAX_PARAM_LENGTH] for key, value in values.items()})

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._enqueue("tags", dict(values))

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step."""
        self._enqueue("metrics", [[key, float(value), int(time.time() * 1000), step] for key, value in values.items()])

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Name the set that the run reads or makes by its manifest's digest: the lineage from shard to release."""
        self._enqueue("dataset", {"name": name, "digest": digest, "source": source, "context": context})

    def log_artifact(self, path: Path, artifact_folder: str = "") -> None:
        """Log a file, pictures included, under an artifact folder."""
        self._enqueue("file", {"path": str(path.resolve()), "folder": artifact_folder})

    def tag_model_versions(self, name: str, tag: str, value: str, key: str) -> None:
        """Let the registered versions that have a tag, if there are any, name this run under another."""
        self._enqueue("on_versions", {"name": name, "tag": tag, "value": value, "key": key})

    def close(self, status: str | None) -> None:
        """End the run: FINISHED, FAILED, or KILLED for one that will be taken up again; None leaves it as it is."""
        if status:
            self._enqueue("status", status)
        self._close_deadline = time.monotonic() + CLOSE_TIMEOUT
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_TIMEOUT)
        if num_pending := self.num_pending():
            log.warning(
                "tracking at %s lacks %d entries; they wait in %s and the same command sends them",
                self.redacted_uri, num_pending, self._queue.folder,
            )  # fmt: skip

    def num_pending(self) -> int:
        """Entries that have not been sent."""
        return self._queue.pending()

    def _enqueue(self, kind: str, payload: object) -> None:
        try:
            self._queue.append({"kind": kind, "what": payload})
        except OSError as error:
            log.warning("nothing can be kept for the tracker (%s); metrics.jsonl has everything", error.strerror)
        self._wake.set()

    def _run_sender(self) -> None:
        """The thread: everything in order, until told to close and nothing is left or nobody answers."""
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
        """Send entries, all metrics at once; one that the tracker will never take is left out with a warning."""
        metrics = [metric for entry in entries if entry["kind"] == "metrics" for metric in entry["what"]]
        sends: list[tuple[Send, Any]] = [(_send_metrics, metrics)] if metrics else []
        sends += [(_SENDERS[entry["kind"]], entry["what"]) for entry in entries if entry["kind"] != "metrics"]
        for send, payload in sends:
            try:
                send(client, self.run_id, payload)
            except Exception as error:
                if not _is_permanent(error):
                    raise
                log.warning(
                    "tracking at %s refuses an entry (%s); it is left out", self.redacted_uri, first_line(error)
                )

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
                "tracking at %s is away (%s); training goes on, and it is told later",
                self.redacted_uri,
                first_line(error),
            )
        self._unreachable = True

    def _on_reachable(self) -> None:
        if self._unreachable:
            log.info("tracking at %s is back, and has been told what it missed", self.redacted_uri)
        self._unreachable = False


def read_run_id(folder: Path) -> str | None:
    """Of the run that a tracker of this folder has begun; None if the tracking server has not been reached yet."""
    marker = folder / RUN_ID_FILE
    return marker.read_text().strip() if marker.exists() else None


def has_unsent_after_end(folder: Path) -> bool:
    """Whether a tracker of this folder has ended without having sent everything."""
    entries = EventQueue(folder).peek(sys.maxsize)
    return bool(entries) and entries[-1]["kind"] == "status" and entries[-1]["what"] != "RUNNING"


def _send_params(client: "MlflowClient", run_id: str, values: dict[str, str]) -> None:
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    new = [Param(key, value) for key, value in values.items() if key not in known]
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
    "on_versions": _send_model_version_tags,
    "status": _send_status,
}


def _is_permanent(error: Exception) -> bool:
    """Whether the same would fail for ever: the tracker has said no, or the file is gone."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())
        return 400 <= status < 500 and status not in (401, 403, 408, 429)
    return isinstance(error, FileNotFoundError)


def _has_run(client: "MlflowClient", run_id: str) -> bool:
    """Whether the tracker knows the run; it does not if it has been wiped or is another one than last time."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
