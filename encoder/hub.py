"""Releases from the Hugging Face hub, and which commit of a base model was loaded."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RevisionResolutionError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in __all__

from encoder.errors import ConfigError, ModelError
from encoder.release_format import FILES, WHOLE

LARGEST_WEIGHTS, LARGEST_OTHER = 4 * 2**30, 32 * 2**20
"""Bytes of a file of a release; a larger one is not downloaded."""
HIDDEN = [".*", "*/.*"]
ADVICE = {
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


def release_folder(place: str | Path) -> Path:
    """The folder of a release: one that exists is itself, owner/name or owner/name@revision comes from the hub.

    What is downloaded lies in the hub's own cache, which serves when there is no connection. Without a revision it is
    ``main``. Raises ModelError if there is no such release or it cannot be had.
    """
    if Path(place).exists():
        return Path(place)
    repo, _, revision = str(place).partition("@")
    if isinstance(place, Path) or not is_hub_id(repo):
        raise ModelError(
            f"release {place}: no such folder; make one with `e4t release`, or give a hub id, owner/name or "
            "owner/name@v1.0.0"
        )
    try:
        return _downloaded(repo, revision or None)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"release {place}: no such folder here; the hub: {reason(error)}") from error


def _downloaded(repo: str, revision: str | None) -> Path:
    """The release's files alone, once it is known that they are all there, and how large they are."""
    commit, wanted = HfApi().resolve_revision(repo, revision=revision), list(FILES)
    listed = snapshot_download(repo, revision=commit, allow_patterns=wanted, ignore_patterns=HIDDEN, dry_run=True)
    sizes = {file.filename: file.file_size or 0 for file in listed}
    if missing := sorted(WHOLE - sizes.keys()):
        raise ModelError(f"{repo} on the hub is not a release of e4t: it lacks {missing[0]}")
    for name, size in sizes.items():
        if size > (LARGEST_WEIGHTS if name.endswith(".safetensors") else LARGEST_OTHER):
            raise ModelError(f"{repo} on the hub is not loaded: its {name} has {size:,} bytes, far more than a release")
    return Path(snapshot_download(repo, revision=commit, allow_patterns=wanted, ignore_patterns=HIDDEN))


def of_release(names: Iterable[str]) -> set[str]:
    """Those names, with / between folders, that can be of a release; nothing hidden, no pickle, no code."""
    shown = (name for name in names if not any(fnmatchcase(name, pattern) for pattern in HIDDEN))
    return {name for name in shown if any(fnmatchcase(name, pattern) for pattern in FILES)}


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
        raise ConfigError(f"base model {model}: no such folder here; the hub: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Why the hub has not done what it was asked to, and what to do about it, in one line."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, and the cache lacks it; unset it to connect"
        if isinstance(each, HfHubHTTPError):
            status = each.response.status_code
            if status >= 500:
                return f"it has troubles of its own (HTTP {status}); run this again later"
            return ADVICE.get(status, f"it refuses (HTTP {status}: {_one_line(error)})")
    if isinstance(error, OSError) and error.filename:
        return _one_line(error)  # of this machine: a full disk, a folder that cannot be written
    return f"no answer from {HfApi().endpoint} ({_one_line(chain[-1])}); check the connection, then run this again"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it comes from."""
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
