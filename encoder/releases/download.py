"""Releases from the Hugging Face hub, and which commit of a base model was loaded."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from encoder.errors import ModelError
from encoder.hub_client import explain_hub_error, is_hub_id
from encoder.releases.release import RELEASE_PATTERNS, REQUIRED_FILES

MAX_WEIGHTS_BYTES, MAX_OTHER_BYTES = 4 * 2**30, 32 * 2**20
"""Bytes of a file of a release; a larger one is not downloaded."""
IGNORE_PATTERNS = [".*", "*/.*"]


def release_folder(location: str | Path) -> Path:
    """The folder of a release: one that exists is itself, owner/name or owner/name@revision comes from the hub.

    What is downloaded lies in the hub's own cache, which serves when there is no connection. Without a revision it is
    ``main``. Raises ModelError if there is no such release or it cannot be had.
    """
    if Path(location).exists():
        return Path(location)
    repo, _, revision = str(location).partition("@")
    if isinstance(location, Path) or not is_hub_id(repo):
        raise ModelError(
            f"release {location}: no such folder; make one with `e4t release`, or give a hub id, owner/name or "
            "owner/name@v1.0.0"
        )
    try:
        return _download(repo, revision or None)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"release {location}: no such folder here; the hub: {explain_hub_error(error)}") from error


def _download(repo: str, revision: str | None) -> Path:
    """The release's files alone, once it is known that they are all there, and how large they are."""
    commit, patterns = HfApi().resolve_revision(repo, revision=revision), list(RELEASE_PATTERNS)
    files = snapshot_download(
        repo, revision=commit, allow_patterns=patterns, ignore_patterns=IGNORE_PATTERNS, dry_run=True
    )
    sizes = {file.filename: file.file_size or 0 for file in files}
    if missing := sorted(REQUIRED_FILES - sizes.keys()):
        raise ModelError(f"{repo} on the hub is not a release of e4t: it lacks {missing[0]}")
    for name, size in sizes.items():
        if size > (MAX_WEIGHTS_BYTES if name.endswith(".safetensors") else MAX_OTHER_BYTES):
            raise ModelError(f"{repo} on the hub is not loaded: its {name} has {size:,} bytes, far more than a release")
    return Path(snapshot_download(repo, revision=commit, allow_patterns=patterns, ignore_patterns=IGNORE_PATTERNS))


def filter_release_files(names: Iterable[str]) -> set[str]:
    """Those names, with / between folders, that can be of a release; nothing hidden, no pickle, no code."""
    visible = (name for name in names if not any(fnmatchcase(name, pattern) for pattern in IGNORE_PATTERNS))
    return {name for name in visible if any(fnmatchcase(name, pattern) for pattern in RELEASE_PATTERNS)}
