"""The Hugging Face hub: model ids, revisions, and errors explained in one line."""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RevisionResolutionError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in __all__

from e4t import ConfigError

HTTP_HINTS = {
    401: "it knows no such model or not your token; check the name, then run `hf auth login` or set HF_TOKEN",
    403: "you may not do this there; ask for access, or give your token the right in your settings on the hub",
    404: "it has no such model or revision; check the name, and run `hf auth login` if it is private",
    409: "somebody else changes it at the same time; run this again",
    412: "somebody else has changed it meanwhile; run this again",
    429: "it has had too many requests; run this again in some minutes",
}
"""What to do, by HTTP status."""


def is_hub_id(text: str) -> bool:
    """Whether this can be the id of a model on the hub: owner/name, of the letters that the hub takes."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def resolved_revision(model: str, revision: str | None) -> str | None:
    """The commit of a hub id that was loaded last here, which the cache knows; None for a folder.

    What was never loaded is looked up on the hub. Raises ConfigError if neither knows it.
    """
    if Path(model).exists():
        return None
    api = HfApi()
    try:
        try:
            return api.resolve_revision(model, revision=revision, local_files_only=True).resolved
        except RevisionResolutionError:
            return api.resolve_revision(model, revision=revision).resolved
    except Exception as error:
        raise ConfigError(f"base model {model}: no such folder here; the hub: {explain_hub_error(error)}") from error


def explain_hub_error(error: Exception) -> str:
    """Why the hub has not done what it was asked to, and what to do about it, in one line."""
    chain = list(_exception_chain(error))
    for cause in chain:
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, and the cache lacks it; unset it to connect"
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            if status >= 500:
                return f"it has troubles of its own (HTTP {status}); run this again later"
            return HTTP_HINTS.get(status, f"it refuses (HTTP {status}: {_one_line(error)})")
    if isinstance(error, OSError) and error.filename:
        return _one_line(error)  # of this machine: a full disk, a folder that cannot be written
    return f"no answer from {HfApi().endpoint} ({_one_line(chain[-1])}); check the connection, then run this again"


def _exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it comes from."""
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
