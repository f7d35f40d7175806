"""Push releases to the Hugging Face hub: each version is one commit and one tag, which never moves."""

import logging
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from data_prep.storage.atomic import sha256_file
from e4t_errors import ConfigError
from encoder.hub_client import explain_hub_error, is_hub_id
from encoder.releases.download import filter_release_files
from encoder.releases.release import REQUIRED_FILES, Release
from pipelines.errors import RunError

log = logging.getLogger("e4t")


def push(release: Release, repo: str, *, private: bool = False) -> str:
    """Commit a release to the model repository ``repo`` (owner/name), tag it v<version>, and return the URL of the tag.

    The repository is created if necessary. An existing tag with identical files is left as it is. Raises ConfigError if
    ``repo`` is not a hub id; ModelError if a weight is not finite; RunError if the tag exists with other files, a link
    leads out of the release, a ``private`` release would become public, or the hub refuses the push.
    """
    if not is_hub_id(repo):
        raise ConfigError(f"{repo} is not a hub id; give one of the form owner/name")
    release.check_weights()
    files = _release_files(release)
    token = get_token()
    if token is None:
        raise RunError(f"cannot push to {repo}: no hub token found; run `hf auth login` or set HF_TOKEN")
    try:
        return _push(HfApi(token=token), release, files, repo, private=private)
    except RunError:
        raise
    except Exception as error:
        reason = explain_hub_error(error)
        raise RunError(f"{release.folder} is complete, but was not pushed to {repo}: {reason}") from error


def _push(api: HfApi, release: Release, files: Mapping[str, Path], repo: str, *, private: bool) -> str:
    tag = f"v{release.version}"
    api.create_repo(repo, private=private or None, exist_ok=True)
    model_info = api.model_info(repo)
    if private and not model_info.private:
        raise RunError(f"{repo} is public on the hub; make it private there, or push to another name")
    if any(ref.name == tag for ref in api.list_repo_refs(repo).tags):
        if differing := _differing(_remote_files(api, repo, tag), files):
            raise RunError(
                f"tag {tag} of {repo} already exists with a different {differing[0]}; tags never change: "
                "release a new version"
            )
        log.info("%s already has %s with identical files", repo, tag)
    else:
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        obsolete = _remote_files(api, repo, model_info.sha).keys() - files.keys()
        deletions = [CommitOperationDelete(name) for name in sorted(obsolete)]
        commit = api.create_commit(
            repo, [*operations, *deletions], commit_message=release.id, parent_commit=model_info.sha
        )
        # A .gitignore in the repository makes the hub skip files silently.
        if differing := _differing(_remote_files(api, repo, commit.oid), files):
            raise RunError(f"{repo} did not store {differing[0]} unchanged, {tag} is not set; check its .gitignore")
        api.create_tag(repo, tag=tag, revision=commit.oid)
    return f"{api.endpoint}/{repo}/tree/{tag}"


def _release_files(release: Release) -> dict[str, Path]:
    """Return the files of the release by their POSIX paths relative to its folder."""
    root = release.folder.resolve()
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    files = {name: paths[name] for name in paths if name in filter_release_files(paths)}
    for name, path in files.items():
        if not path.resolve().is_relative_to(root):
            raise RunError(
                f"{release.folder}: {name} is a link to a file outside of the release; replace it with the file"
            )
    if missing := sorted(REQUIRED_FILES - files.keys()):
        raise RunError(f"cannot push {release.folder}: it lacks {missing[0]}; get the release again")
    return files


def _remote_files(api: HfApi, repo: str, revision: str | None) -> dict[str, RepoFile]:
    """Return the release files of the repository at a revision, without files that others added."""
    tree = [each for each in api.list_repo_tree(repo, recursive=True, revision=revision) if isinstance(each, RepoFile)]
    release_files = filter_release_files(each.path for each in tree)
    return {each.path: each for each in tree if each.path in release_files}


def _differing(remote: Mapping[str, RepoFile], files: Mapping[str, Path]) -> list[str]:
    """Return the names of files that differ or exist on one side only."""
    both = remote.keys() & files.keys()
    return sorted((remote.keys() ^ files.keys()) | {name for name in both if not _same(remote[name], files[name])})


def _same(remote: RepoFile, path: Path) -> bool:
    """Return whether a local file equals the remote one, by the digest that the hub stores."""
    if remote.lfs:
        return bool(remote.lfs.sha256 == sha256_file(path))
    return bool(remote.blob_id == git_hash(path.read_bytes()))
