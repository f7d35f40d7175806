"""The MLflow client: tracking URI, experiment and names of tags."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.credentials import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "e4t"
"""Name of the MLflow experiment of all runs."""
SEMANTIC_VERSION_TAG = "semantic_version"
"""Tag of a registered model version with the release's semantic version; MLflow itself numbers versions 1, 2, 3."""


def tracking_uri(runs: Path | str) -> str:
    """Return ``MLFLOW_TRACKING_URI``, or the URI of an SQLite file in the folder of runs if it is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(runs).resolve()}/mlflow.db"


def redacted_uri(runs: Path | str) -> str:
    """Return the tracking URI without its password, for messages."""
    return redact(tracking_uri(runs))


def connect(runs: Path | str) -> "MlflowClient":
    """Return a client of the tracking server or file, with timeouts of seconds instead of MLflow's minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient  # takes seconds to import

    for library in ("alembic", "mlflow", "urllib3"):  # after the import, which sets its own levels
        logging.getLogger(library).setLevel(logging.ERROR)
    uri = tracking_uri(runs)
    if uri.startswith("sqlite"):
        Path(runs).mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri)


@contextmanager
def mlflow_tracking_uri(runs: Path | str) -> Iterator[None]:
    """Set the tracking URI of the process inside the ``with`` block, for MLflow functions that take no client."""
    import mlflow

    previous = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(tracking_uri(runs))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(previous)  # type: ignore[arg-type]  # None restores the default


def get_or_create_experiment(client: "MlflowClient", runs: Path | str) -> str:
    """Return the id of the experiment, which is created if it does not exist.

    With an SQLite file, artifacts are stored in ``mlartifacts`` beside the runs.
    """
    if experiment := client.get_experiment_by_name(EXPERIMENT):
        return str(experiment.experiment_id)
    artifacts = (Path(runs).resolve() / "mlartifacts" / EXPERIMENT).as_uri()
    return str(client.create_experiment(EXPERIMENT, artifacts if tracking_uri(runs).startswith("sqlite") else None))


def first_line(error: Exception) -> str:
    """Return the first line of an error message, at most 200 characters, without passwords in URLs."""
    return redact(str(error).split("\n")[0])[:200]
