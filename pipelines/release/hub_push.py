"""Releases go to the Hugging Face hub: a version is one commit of a model, and a tag that never moves."""

import logging
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from data_prep.storage.atomic import sha256_file
from e4t import ConfigError
from encoder.hub_client import explain_hub_error, is_hub_id
from encoder.releases.download import filter_release_files
from encoder.releases.release import REQUIRED_FILES, Release
from pipelines.errors import RunError

log = logging.getLogger("e4t")


def push(release: Release, repo: str, *, private: bool = False) -> str:
    """Commit a release to the model ``repo``, owner/name, tag that v<version>, and return the tagged revision's URL.

    The model is made if there is none. A tag that is there with the same bytes is left as it is. Raises ConfigError if
    ``repo`` is no hub id; RunError if the tag has other bytes, a file leads out of the release, a ``private`` release
    would become public, or the hub does not take it.
    """
    if not is_hub_id(repo):
        raise ConfigError(f"{repo} is not a hub id; give one of the form owner/name")
    files = _release_files(release)
    token = get_token()
    if token is None:
        raise RunError(f"{repo} is not pushed: no token of the hub is here; run `hf auth login` or set HF_TOKEN")
    try:
        return _push(HfApi(token=token), release, files, repo, private=private)
    except RunError:
        raise
    except Exception as error:
        raise RunError(
            f"{release.folder} is whole, but not on the hub as {repo}: {explain_hub_error(error)}"
        ) from error


def _push(api: HfApi, release: Release, files: Mapping[str, Path], repo: str, *, private: bool) -> str:
    tag = f"v{release.version}"
    api.create_repo(repo, private=private or None, exist_ok=True)
    model_info = api.model_info(repo)
    if private and not model_info.private:
        raise RunError(f"{repo} is public on the hub; make it private there, or push to another name")
    if any(ref.name == tag for ref in api.list_repo_refs(repo).tags):
        if differing := _differing(_remote_files(api, repo, tag), files):
            raise RunError(
                f"{repo} has a {tag} with another {differing[0]}; a version never changes: release it as a new one"
            )
        log.info("%s has %s already, with the same bytes", repo, tag)
    else:
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        deletions = [
            CommitOperationDelete(name) for name in _remote_files(api, repo, model_info.sha) if name not in files
        ]
        commit = api.create_commit(
            repo, [*operations, *deletions], commit_message=release.id, parent_commit=model_info.sha
        )
        if differing := _differing(
            _remote_files(api, repo, commit.oid), files
        ):  # a .gitignore there leaves files out silently
            raise RunError(
                f"{repo} did not take {differing[0]} as it is; see its .gitignore on the hub; {tag} is not set"
            )
        api.create_tag(repo, tag=tag, revision=commit.oid)
    return f"{api.endpoint}/{repo}/tree/{tag}"


def _release_files(release: Release) -> dict[str, Path]:
    """The release's files, by their names with / between folders."""
    root = release.folder.resolve()
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    files = {name: paths[name] for name in paths if name in filter_release_files(paths)}
    for name, path in files.items():
        if not path.resolve().is_relative_to(root):
            raise RunError(f"{release.folder}: {name} is a link that leads out of the release; put the file there")
    if missing := sorted(REQUIRED_FILES - files.keys()):
        raise RunError(f"{release.folder} is not pushed: it lacks {missing[0]}; get the release again")
    return files


def _remote_files(api: HfApi, repo: str, revision: str | None) -> dict[str, RepoFile]:
    """Files of releases on the hub at a revision; others there are not ours."""
    tree = [each for each in api.list_repo_tree(repo, recursive=True, revision=revision) if isinstance(each, RepoFile)]
    release_files = filter_release_files(each.path for each in tree)
    return {each.path: each for each in tree if each.path in release_files}


def _differing(remote: Mapping[str, RepoFile], files: Mapping[str, Path]) -> list[str]:
    """Names of files that are not the same here and there."""
    both = remote.keys() & files.keys()
    return sorted((remote.keys() ^ files.keys()) | {name for name in both if not _same(remote[name], files[name])})


def _same(remote: RepoFile, path: Path) -> bool:
    """Whether the bytes are the same, by the digest that the hub keeps."""
    if remote.lfs:
        return bool(remote.lfs.sha256 == sha256_file(path))
    return bool(remote.blob_id == git_hash(path.read_bytes()))
