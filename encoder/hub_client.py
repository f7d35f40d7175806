"""Hugging Face Hub: check model ids, resolve revisions, and explain errors in one line."""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RevisionResolutionError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in __all__

from e4t_errors import ConfigError

HTTP_HINTS = {
    401: "no such model, or your token is not accepted; check the name, then run `hf auth login` or set HF_TOKEN",
    403: "access denied; request access to the repository, or extend your token's permissions in your hub settings",
    404: "no such model or revision; check the name, and run `hf auth login` if it is private",
    409: "the repository is being changed by another client; run this again",
    412: "the repository was changed by another client in the meantime; run this again",
    429: "too many requests; run this again in a few minutes",
}
"""Explanation and advice by HTTP status."""


def is_hub_id(text: str) -> bool:
    """Return whether ``text`` is a valid id of a model on the hub, owner/name."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def resolved_revision(model: str, revision: str | None) -> str | None:
    """Return the commit that a hub id and revision stand for; None for a local folder.

    The local cache answers for models that were loaded before, the hub for others. Raises ConfigError if neither knows
    the revision.
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
        raise ConfigError(
            f"base model {model} is no local folder, and the hub cannot resolve it: {explain_hub_error(error)}"
        ) from error


def explain_hub_error(error: Exception) -> str:
    """Explain in one line why a request to the hub failed and what to do about it."""
    chain = list(_exception_chain(error))
    for cause in chain:
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set and the local cache does not hold it; unset HF_HUB_OFFLINE to connect"
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            if status >= 500:
                return f"server error (HTTP {status}); run this again later"
            return HTTP_HINTS.get(status, f"request refused (HTTP {status}: {_one_line(error)})")
    if isinstance(error, OSError) and error.filename:
        return _one_line(error)  # an error of this machine, such as a full disk or a read-only folder
    return f"no answer from {HfApi().endpoint} ({_one_line(chain[-1])}); check the connection, then run this again"


def _exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, then its causes as a traceback would show them."""
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
