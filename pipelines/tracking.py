"""MLflow: recipe, metrics, pictures, the data set. Tracking can fail; training does not."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.files import write_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("e4t")
PAUSE = 60.0
"""Seconds for which a tracker that has failed is left alone, so that one that hangs does not slow every step."""
PARAMETERS_A_CALL, PARAMETER_LENGTH, DIGEST_LENGTH = 100, 6000, 36
"""MLflow's own limits."""


def tracking_uri(runs: Path | str) -> str:
    """``MLFLOW_TRACKING_URI``, else a sqlite file in the folder of runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(runs).resolve()}/mlflow.db"


def connect(runs: Path | str) -> "MlflowClient":
    """A client of the tracking server or file; a server that does not answer costs seconds, not MLflow's minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for library in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(library).setLevel(logging.ERROR)
    from mlflow import MlflowClient  # an import of seconds, only where it is used

    Path(runs).mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri(runs))


def first_line(error: Exception) -> str:
    """What an error says, short enough for one line."""
    return str(error).split("\n")[0][:200]


class Tracker:
    """One MLflow run, taken up again when the training run is. No method raises."""

    def __init__(self, runs: Path | str, folder: Path, experiment: str, name: str) -> None:
        self.uri, self.run_id = tracking_uri(runs), ""
        self._client: MlflowClient | None = None
        self._warned, self._not_before = False, 0.0
        try:
            self._client = self._open(Path(runs), folder, experiment, name)
        except Exception as error:
            log.warning("tracking at %s is not to be had (%s); the run goes on without it", self.uri, first_line(error))

    def _open(self, runs: Path, folder: Path, experiment: str, name: str) -> "MlflowClient":
        client = connect(runs)
        found = client.get_experiment_by_name(experiment)
        artifacts = (runs.resolve() / "mlartifacts" / experiment).as_uri() if self.uri.startswith("sqlite") else None
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifacts)
        marker = folder / "mlflow_run_id"
        known = marker.read_text().strip() if marker.exists() else None
        if known and _has_run(client, known):
            self.run_id = known
            client.update_run(known, status="RUNNING")
        else:
            self.run_id = client.create_run(experiment_id, run_name=name).info.run_id
            write_whole(marker, self.run_id + "\n")
        return client

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; a run that is taken up again keeps those it has, as MLflow demands."""

        def send(client: "MlflowClient") -> None:
            from mlflow.entities import Param

            known = client.get_run(self.run_id).data.params
            new = [Param(key, str(value)[:PARAMETER_LENGTH]) for key, value in values.items() if key not in known]
            for start in range(0, len(new), PARAMETERS_A_CALL):
                client.log_batch(self.run_id, params=new[start : start + PARAMETERS_A_CALL])

        self._try(send)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""

        def send(client: "MlflowClient") -> None:
            from mlflow.entities import RunTag

            client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

        self._try(send)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step."""

        def send(client: "MlflowClient") -> None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            client.log_batch(self.run_id, [Metric(key, float(value), now, step) for key, value in values.items()])

        self._try(send)

    def dataset(self, name: str, digest: str, source: str) -> None:
        """Name the data set that the run reads, by its manifest's digest: the lineage from shard to release."""

        def send(client: "MlflowClient") -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            data = Dataset(name, digest[:DIGEST_LENGTH], "local", json.dumps({"uri": source}))
            client.log_inputs(self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
            client.set_tag(self.run_id, "e4t.data_manifest", digest)

        self._try(send)

    def file(self, path: Path, folder: str) -> None:
        """Log a file, pictures included, under an artifact folder."""
        self._try(lambda client: client.log_artifact(self.run_id, str(path), folder))

    def close(self, status: str) -> None:
        """End the run: FINISHED, FAILED, or KILLED for one that will be taken up again."""
        self._not_before = 0.0
        self._try(lambda client: client.set_terminated(self.run_id, status))

    def _try(self, send: "Callable[[MlflowClient], None]") -> None:
        if self._client is None or time.monotonic() < self._not_before:
            return
        try:
            send(self._client)
        except Exception as error:
            self._not_before = time.monotonic() + PAUSE
            if not self._warned:
                reason = first_line(error)
                log.warning(
                    "tracking at %s failed (%s); training goes on, metrics.jsonl has everything", self.uri, reason
                )
            self._warned = True


def _has_run(client: "MlflowClient", run_id: str) -> bool:
    """Whether the tracker knows the run; it does not if it has been wiped or is another one than last time."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
