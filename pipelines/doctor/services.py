"""What answers over the network: MLflow and the hub. Runs go on without either."""

import os
import time
from pathlib import Path

from pipelines.doctor.check import Finding, Needs
from pipelines.tracking.client import connect, first_line, tracking_uri

SECONDS = 3
"""For an answer."""
NO_TRACKER = "runs keep what it misses until it answers; look at MLFLOW_TRACKING_URI, or unset it for a file"
NO_HUB = "give base.model a folder, or fill the cache elsewhere and set HF_HUB_OFFLINE=1"


def tracker(needs: Needs) -> list[Finding]:
    """Ask the tracker for an experiment."""
    uri = tracking_uri(needs.runs)
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        return [Finding(what="mlflow", state="ok", found=f"{uri}, which the first run makes")]
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(SECONDS)}
    start = time.perf_counter()
    try:
        connect(needs.runs).search_experiments(max_results=1)
    except Exception as error:  # servers, drivers and databases have errors of their own
        found = f"{uri} does not answer: {first_line(error)}"
        return [Finding(what="mlflow", state="note", found=found, remedy=NO_TRACKER)]
    return [Finding(what="mlflow", state="ok", found=f"{uri} answers in {time.perf_counter() - start:.2f} s")]


def hub(_: Needs) -> list[Finding]:
    """Whether bases can be fetched."""
    from huggingface_hub import constants, get_session, get_token

    token = "a token is set" if get_token() else "no token is set"
    if constants.HF_HUB_OFFLINE:
        found = f"HF_HUB_OFFLINE is set: bases come from folders and from the cache, {constants.HF_HUB_CACHE}"
        return [Finding(what="hub", state="ok", found=found)]
    start = time.perf_counter()
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # of a client that is the library's own affair
        found = f"{constants.ENDPOINT} does not answer: {first_line(error)}; {token}"
        return [Finding(what="hub", state="note", found=found, remedy=NO_HUB)]
    found = f"{constants.ENDPOINT} answers in {time.perf_counter() - start:.2f} s; {token}"
    return [Finding(what="hub", state="ok", found=found)]
