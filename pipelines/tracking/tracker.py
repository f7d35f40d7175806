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
from pipelines.tracking.event_queue import Outbox

if TYPE_CHECKING:
    from mlflow import MlflowClient
from pipelines.tracking.client import connect, experiment, first_line, shown_uri

log = logging.getLogger("e4t")
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds after a failure before the tracker is tried again; doubled each time."""
RUN_ID = "run_id"
"""File in a tracker's folder."""
PATIENCE = 30.0
"""Seconds for which the end of a run waits for the tracker."""
ENTRIES_AT_ONCE = 500
METRICS_A_CALL, PARAMETERS_A_CALL, PARAMETER_LENGTH, DIGEST_LENGTH = 1000, 100, 6000, 36
"""MLflow's own limits."""


Send = Callable[["MlflowClient", str, Any], None]


class Tracker:
    """One MLflow run, taken up again when the stage is. No method raises, and none waits but ``close``.

    What is to be logged goes into an outbox on the disk, and a thread sends it. A tracker that is slow or away leaves
    a gap that is filled when it is back, by the next sitting if need be.
    """

    def __init__(self, runs: Path | str, folder: Path, name: str) -> None:
        """``folder`` is the tracker's own: it holds the run's id, and what waits to be sent."""
        self.shown_uri, self.run_id = shown_uri(runs), ""
        self._runs, self._folder, self._name = Path(runs), folder, name
        self._client: MlflowClient | None = None
        self._outbox = Outbox(folder)
        self._closing, self._news = threading.Event(), threading.Event()
        self._give_up = math.inf
        self._away = False
        self._sender = threading.Thread(target=self._send, name="tracker", daemon=True)
        self._sender.start()

    def begin(self) -> None:
        """Say that the run goes on."""
        self._put("status", "RUNNING")

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; a run that is taken up again keeps those it has, as MLflow demands."""
        self._put("params", {key: str(value)[:PARAMETER_LENGTH] for key, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._put("tags", dict(values))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step."""
        self._put("metrics", [[key, float(value), int(time.time() * 1000), step] for key, value in values.items()])

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Name the set that the run reads or makes by its manifest's digest: the lineage from shard to release."""
        self._put("dataset", {"name": name, "digest": digest, "source": source, "context": context})

    def file(self, path: Path, folder: str = "") -> None:
        """Log a file, pictures included, under an artifact folder."""
        self._put("file", {"path": str(path.resolve()), "folder": folder})

    def on_versions(self, name: str, tag: str, value: str, key: str) -> None:
        """Let the registered versions that have a tag, if there are any, name this run under another."""
        self._put("on_versions", {"name": name, "tag": tag, "value": value, "key": key})

    def close(self, status: str | None) -> None:
        """End the run: FINISHED, FAILED, or KILLED for one that will be taken up again; None leaves it as it is."""
        if status:
            self._put("status", status)
        self._give_up = time.monotonic() + PATIENCE
        self._closing.set()
        self._news.set()
        self._sender.join(PATIENCE)
        if left := self.left():
            log.warning(
                "tracking at %s lacks %d entries; they wait in %s and the same command sends them",
                self.shown_uri, left, self._outbox.folder,
            )  # fmt: skip

    def left(self) -> int:
        """Entries that have not been sent."""
        return self._outbox.waiting()

    def _put(self, kind: str, what: object) -> None:
        try:
            self._outbox.put({"kind": kind, "what": what})
        except OSError as error:
            log.warning("nothing can be kept for the tracker (%s); metrics.jsonl has everything", error.strerror)
        self._news.set()

    def _send(self) -> None:
        """The thread: everything in order, until told to close and nothing is left or nobody answers."""
        pause = FIRST_PAUSE
        while not self._closing.is_set() or (self._outbox.waiting() and time.monotonic() < self._give_up):
            self._news.clear()
            try:
                self._client = self._client or self._open()
                while taken := self._outbox.first(ENTRIES_AT_ONCE):
                    self._deliver(self._client, taken)
                    self._outbox.done()
                self._is_back()
                pause = FIRST_PAUSE
            except Exception as error:
                self._is_away(error)
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                if self._closing.is_set():
                    time.sleep(FIRST_PAUSE)
                continue
            if not self._closing.is_set():
                self._news.wait()

    def _deliver(self, client: "MlflowClient", entries: list[dict[str, Any]]) -> None:
        """Send entries, all metrics at once; one that the tracker will never take is left out with a warning."""
        metrics = [metric for entry in entries if entry["kind"] == "metrics" for metric in entry["what"]]
        sends: list[tuple[Send, Any]] = [(_send_metrics, metrics)] if metrics else []
        sends += [(_SENDERS[entry["kind"]], entry["what"]) for entry in entries if entry["kind"] != "metrics"]
        for send, what in sends:
            try:
                send(client, self.run_id, what)
            except Exception as error:
                if not _is_hopeless(error):
                    raise
                log.warning("tracking at %s refuses an entry (%s); it is left out", self.shown_uri, first_line(error))

    def _open(self) -> "MlflowClient":
        client = connect(self._runs)
        known = run_id(self._folder)
        if known and _has_run(client, known):
            self.run_id = known
        else:
            self.run_id = client.create_run(experiment(client, self._runs), run_name=self._name).info.run_id
            atomic_write(self._folder / RUN_ID, self.run_id + "\n")
        return client

    def _is_away(self, error: Exception) -> None:
        if not self._away:
            log.warning(
                "tracking at %s is away (%s); training goes on, and it is told later", self.shown_uri, first_line(error)
            )
        self._away = True

    def _is_back(self) -> None:
        if self._away:
            log.info("tracking at %s is back, and has been told what it missed", self.shown_uri)
        self._away = False


def run_id(folder: Path) -> str | None:
    """Of the run that a tracker of this folder has begun; None if the tracking server has not been reached yet."""
    marker = folder / RUN_ID
    return marker.read_text().strip() if marker.exists() else None


def waits_after_the_end(folder: Path) -> bool:
    """Whether a tracker of this folder has ended without having sent everything."""
    waiting = Outbox(folder).first(sys.maxsize)
    return bool(waiting) and waiting[-1]["kind"] == "status" and waiting[-1]["what"] != "RUNNING"


def _send_params(client: "MlflowClient", run_id: str, values: dict[str, str]) -> None:
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    new = [Param(key, value) for key, value in values.items() if key not in known]
    for start in range(0, len(new), PARAMETERS_A_CALL):
        client.log_batch(run_id, params=new[start : start + PARAMETERS_A_CALL])


def _send_tags(client: "MlflowClient", run_id: str, values: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])


def _send_metrics(client: "MlflowClient", run_id: str, values: list[list[Any]]) -> None:
    from mlflow.entities import Metric

    for start in range(0, len(values), METRICS_A_CALL):
        client.log_batch(run_id, [Metric(*value) for value in values[start : start + METRICS_A_CALL]])


def _send_dataset(client: "MlflowClient", run_id: str, about: dict[str, str]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = Dataset(about["name"], about["digest"][:DIGEST_LENGTH], "local", json.dumps({"uri": about["source"]}))
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", about["context"])])])
    client.set_tag(run_id, "e4t.data_manifest", about["digest"])


def _send_file(client: "MlflowClient", run_id: str, about: dict[str, str]) -> None:
    client.log_artifact(run_id, about["path"], about["folder"] or None)


def _send_on_versions(client: "MlflowClient", run_id: str, about: dict[str, str]) -> None:
    for version in client.search_model_versions(f"name = '{about['name']}'"):
        if version.tags.get(about["tag"]) == about["value"]:
            client.set_model_version_tag(about["name"], version.version, about["key"], run_id)


def _send_status(client: "MlflowClient", run_id: str, status: str) -> None:
    if status == "RUNNING":
        client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status)


_SENDERS: dict[str, Send] = {
    "params": _send_params,
    "tags": _send_tags,
    "dataset": _send_dataset,
    "file": _send_file,
    "on_versions": _send_on_versions,
    "status": _send_status,
}


def _is_hopeless(error: Exception) -> bool:
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
