"""Check MLflow and the Hugging Face hub. Training runs without either."""

import os
import time
from pathlib import Path

from pipelines.doctor.check import CheckResult, JobRequirements
from pipelines.tracking.client import connect, first_line, tracking_uri

TIMEOUT_SECONDS = 3
"""Seconds to wait for a response."""
MLFLOW_REMEDY = "runs queue metrics until MLflow responds; check MLFLOW_TRACKING_URI, or unset it to use a local file"
HUB_REMEDY = "set base.model to a local folder, or copy a filled cache here and set HF_HUB_OFFLINE=1"


def check_mlflow(requirements: JobRequirements) -> list[CheckResult]:
    """Query the MLflow tracking server for one experiment."""
    uri = tracking_uri(requirements.runs)
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        return [CheckResult(name="mlflow", status="ok", detail=f"{uri} (the first run creates it)")]
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_SECONDS)}
    start = time.perf_counter()
    try:
        connect(requirements.runs).search_experiments(max_results=1)
    except Exception as error:  # servers, drivers and databases raise their own exception types
        detail = f"{uri} does not respond: {first_line(error)}"
        return [CheckResult(name="mlflow", status="warn", detail=detail, remedy=MLFLOW_REMEDY)]
    return [CheckResult(name="mlflow", status="ok", detail=f"{uri} responds in {time.perf_counter() - start:.2f} s")]


def check_hub(_: JobRequirements) -> list[CheckResult]:
    """Check that base models can be downloaded."""
    from huggingface_hub import constants, get_session, get_token

    token = "a token is set" if get_token() else "no token is set"
    if constants.HF_HUB_OFFLINE:
        detail = f"HF_HUB_OFFLINE is set: base models come from folders and the cache {constants.HF_HUB_CACHE}"
        return [CheckResult(name="hub", status="ok", detail=detail)]
    start = time.perf_counter()
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except Exception as error:  # the exception types depend on the HTTP client that the library uses
        detail = f"{constants.ENDPOINT} does not respond: {first_line(error)}; {token}"
        return [CheckResult(name="hub", status="warn", detail=detail, remedy=HUB_REMEDY)]
    detail = f"{constants.ENDPOINT} responds in {time.perf_counter() - start:.2f} s; {token}"
    return [CheckResult(name="hub", status="ok", detail=detail)]
