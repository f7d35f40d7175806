"""Releases from the Hugging Face hub, and which commit of a base model was loaded."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from encoder.errors import ModelError
from encoder.hub_client import is_hub_id, reason
from encoder.releases.release import FILES, WHOLE

LARGEST_WEIGHTS, LARGEST_OTHER = 4 * 2**30, 32 * 2**20
"""Bytes of a file of a release; a larger one is not downloaded."""
HIDDEN = [".*", "*/.*"]


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
