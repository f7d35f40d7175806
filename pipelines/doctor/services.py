"""What answers over the network: MLflow and the hub. Runs go on without either."""

import os
import time
from pathlib import Path

from pipelines.doctor.check import CheckResult, JobRequirements
from pipelines.tracking.client import connect, first_line, tracking_uri

TIMEOUT_SECONDS = 3
"""For an answer."""
MLFLOW_REMEDY = "runs keep what it misses until it answers; look at MLFLOW_TRACKING_URI, or unset it for a file"
HUB_REMEDY = "give base.model a folder, or fill the cache elsewhere and set HF_HUB_OFFLINE=1"


def check_mlflow(requirements: JobRequirements) -> list[CheckResult]:
    """Ask the tracker for an experiment."""
    uri = tracking_uri(requirements.runs)
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        return [CheckResult(name="mlflow", status="ok", detail=f"{uri}, which the first run makes")]
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_SECONDS)}
    start = time.perf_counter()
    try:
        connect(requirements.runs).search_experiments(max_results=1)
    except Exception as error:  # servers, drivers and databases have errors of their own
        detail = f"{uri} does not answer: {first_line(error)}"
        return [CheckResult(name="mlflow", status="note", detail=detail, remedy=MLFLOW_REMEDY)]
    return [CheckResult(name="mlflow", status="ok", detail=f"{uri} answers in {time.perf_counter() - start:.2f} s")]


def check_hub(_: JobRequirements) -> list[CheckResult]:
    """Whether bases can be fetched."""
    from huggingface_hub import constants, get_session, get_token

    token = "a token is set" if get_token() else "no token is set"
    if constants.HF_HUB_OFFLINE:
        detail = f"HF_HUB_OFFLINE is set: bases come from folders and from the cache, {constants.HF_HUB_CACHE}"
        return [CheckResult(name="hub", status="ok", detail=detail)]
    start = time.perf_counter()
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except Exception as error:  # of a client that is the library's own affair
        detail = f"{constants.ENDPOINT} does not answer: {first_line(error)}; {token}"
        return [CheckResult(name="hub", status="note", detail=detail, remedy=HUB_REMEDY)]
    detail = f"{constants.ENDPOINT} answers in {time.perf_counter() - start:.2f} s; {token}"
    return [CheckResult(name="hub", status="ok", detail=detail)]
