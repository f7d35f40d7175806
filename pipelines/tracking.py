"""MLflow: recipe, metrics, pictures. Tracking can fail; training does not."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from data_prep.files import write_whole

log = logging.getLogger("e4t")
P = ParamSpec("P")


def tracking_uri(runs: Path | str) -> str:
    """``MLFLOW_TRACKING_URI``, else a sqlite file in the folder of runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(runs).resolve()}/mlflow.db"


def _never_stops_training(
    method: Callable[Concatenate["Tracker", P], None],
) -> Callable[Concatenate["Tracker", P], None]:
    @wraps(method)
    def guarded(self: "Tracker", *args: P.args, **kwargs: P.kwargs) -> None:
        if not self.client:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever the tracker throws
            if not self.warned:
                log.warning("tracking at %s failed (%s); training goes on, metrics.jsonl has everything", self.uri, str(error).split("\n")[0][:200])
            self.warned = True

    return guarded


class Tracker:
    """One MLflow run, taken up again when the training run is."""

    def __init__(self, runs: Path | str, folder: Path, experiment: str, name: str) -> None:
        self.uri, self.warned, self.client, self.run_id = tracking_uri(runs), False, None, ""
        try:
            self._open(Path(runs), folder, experiment, name)
        except Exception as error:  # noqa: BLE001 - whatever the tracker throws
            log.warning("tracking at %s is not to be had (%s); the run goes on without it", self.uri, str(error).split("\n")[0][:200])
            self.client = None

    def _open(self, runs: Path, folder: Path, experiment: str, name: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient  # an import of seconds, only where it is used

        client = MlflowClient(self.uri)
        found = client.get_experiment_by_name(experiment)
        artifacts = f"file://{runs.resolve()}/mlartifacts/{experiment}" if self.uri.startswith("sqlite") else None
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifacts)
        marker = folder / "mlflow_run_id"
        if marker.exists():
            self.run_id = marker.read_text().strip()
            client.update_run(self.run_id, status="RUNNING")
        else:
            self.run_id = client.create_run(experiment_id, run_name=name).info.run_id
            write_whole(marker, self.run_id + "\n")
        self.client = client

    @_never_stops_training
    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; a run that is taken up again has them already."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        new = [Param(key, str(value)[:6000]) for key, value in values.items() if key not in known]
        self.client.log_batch(self.run_id, params=new)

    @_never_stops_training
    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        for key, value in values.items():
            self.client.set_tag(self.run_id, key, value)

    @_never_stops_training
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(key, float(value), now, step) for key, value in values.items()])

    @_never_stops_training
    def file(self, path: Path, folder: str) -> None:
        """Log a file, pictures included, under an artifact folder."""
        self.client.log_artifact(self.run_id, str(path), folder)

    @_never_stops_training
    def close(self, status: str) -> None:
        """End the run: FINISHED, FAILED, or KILLED for one that will be taken up again."""
        self.client.set_terminated(self.run_id, status)
