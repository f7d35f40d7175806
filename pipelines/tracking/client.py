"""The MLflow client: tracking URI, experiment, version tags."""

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
"""Of all runs."""


SEMANTIC_VERSION_TAG = "semantic_version"
"""Tag of a registered version: the registry itself counts 1, 2, 3."""


def tracking_uri(runs: Path | str) -> str:
    """``MLFLOW_TRACKING_URI``, else a sqlite file in the folder of runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(runs).resolve()}/mlflow.db"


def redacted_uri(runs: Path | str) -> str:
    """The same for people to read: without a password."""
    return redact(tracking_uri(runs))


def connect(runs: Path | str) -> "MlflowClient":
    """A client of the tracking server or file; a server that does not answer costs seconds, not MLflow's minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient  # an import of seconds, only where it is used

    for library in ("alembic", "mlflow", "urllib3"):  # after the import, which sets levels of its own
        logging.getLogger(library).setLevel(logging.ERROR)
    uri = tracking_uri(runs)
    if uri.startswith("sqlite"):
        Path(runs).mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri)


@contextmanager
def mlflow_tracking_uri(runs: Path | str) -> Iterator[None]:
    """Let functions of MLflow that take no client speak to the same; it is set for the process, so only for a while."""
    import mlflow

    previous = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(tracking_uri(runs))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(previous)  # type: ignore[arg-type]  # None is as it was


def get_or_create_experiment(client: "MlflowClient", runs: Path | str) -> str:
    """Id of the experiment, made if there is none; without a server its files lie beside the runs."""
    if found := client.get_experiment_by_name(EXPERIMENT):
        return str(found.experiment_id)
    artifacts = (Path(runs).resolve() / "mlartifacts" / EXPERIMENT).as_uri()
    return str(client.create_experiment(EXPERIMENT, artifacts if tracking_uri(runs).startswith("sqlite") else None))


def first_line(error: Exception) -> str:
    """What an error says, short enough for one line and without a secret: MLflow's name the URL with its password."""
    return redact(str(error).split("\n")[0])[:200]
