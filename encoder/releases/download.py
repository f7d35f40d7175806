"""Download releases from the Hugging Face hub."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from encoder.errors import ModelError
from encoder.hub_client import explain_hub_error, is_hub_id
from encoder.releases.release import RELEASE_PATTERNS, REQUIRED_FILES

MAX_WEIGHTS_BYTES, MAX_OTHER_BYTES = 4 * 2**30, 32 * 2**20
"""Largest size in bytes of a release's weights and of its other files; larger files are refused."""
IGNORE_PATTERNS = [".*", "*/.*"]
"""Hidden files, which are never downloaded."""


def release_folder(location: str | Path) -> Path:
    """Return the local folder of a release; owner/name and owner/name@revision are downloaded from the hub.

    A local folder wins over a hub id. The default revision is ``main``. Downloads go to the hub client's cache, which
    also serves without a connection. Raises ModelError if there is no such release or the download fails.
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
        raise ModelError(
            f"release {location}: not a local folder, and the hub cannot provide it: {explain_hub_error(error)}"
        ) from error


def _download(repo: str, revision: str | None) -> Path:
    """Download the files of a release after checking that all are present and none is too large."""
    commit, patterns = HfApi().resolve_revision(repo, revision=revision), list(RELEASE_PATTERNS)
    files = snapshot_download(
        repo, revision=commit, allow_patterns=patterns, ignore_patterns=IGNORE_PATTERNS, dry_run=True
    )
    sizes = {file.filename: file.file_size or 0 for file in files}
    if missing := sorted(REQUIRED_FILES - sizes.keys()):
        raise ModelError(f"{repo} on the hub is not a release of e4t: it lacks {missing[0]}")
    for name, size in sizes.items():
        if size > (MAX_WEIGHTS_BYTES if name.endswith(".safetensors") else MAX_OTHER_BYTES):
            raise ModelError(
                f"{repo} on the hub was not downloaded: {name} has {size:,} bytes, far more than a release needs"
            )
    return Path(snapshot_download(repo, revision=commit, allow_patterns=patterns, ignore_patterns=IGNORE_PATTERNS))


def filter_release_files(names: Iterable[str]) -> set[str]:
    """Keep the paths, with / between folders, that can belong to a release: no hidden files, pickles or code."""
    visible = (name for name in names if not any(fnmatchcase(name, pattern) for pattern in IGNORE_PATTERNS))
    return {name for name in visible if any(fnmatchcase(name, pattern) for pattern in RELEASE_PATTERNS)}
