"""Fetch images that table rows refer to by path or by URL."""

from data_prep.config import ReadConfig
from data_prep.sources.files.failures import ReadFailed
from data_prep.sources.files.filesystem import FileTree, is_http, is_local
from data_prep.sources.files.local_tree import LocalTree


def fetch(tree: FileTree, path: str, config: ReadConfig, version: str = "") -> bytes:
    """Read the image at a URL, or at a path relative to ``tree``.

    Raises ReadFailed, SampleRejected if the image must not be used or is too large, and SourceChangedError if it is not
    of the version that it had when it was listed.
    """
    if is_local(path):
        return _root_for(tree, path, config).read_image(path.removeprefix("file://"), version)
    if is_http(path):
        from data_prep.sources.files.http_client import http_client  # imported late: the local disk does without it

        return http_client(config).read_image(path, version)
    from data_prep.sources.files.remote_tree import read_image_at

    return read_image_at(path, config)


def version_of(tree: FileTree, path: str, config: ReadConfig) -> str:
    """Return the version of a local file. Remote files have none, because each would cost a request."""
    root = _root_for(tree, path, config)
    if not (is_local(path) and isinstance(root, LocalTree)):
        return ""
    try:
        return root.entry(path.removeprefix("file://")).version
    except ReadFailed:
        return ""  # the failure is reported when the image is read


def _root_for(tree: FileTree, path: str, config: ReadConfig) -> FileTree:
    """Return the tree that a path is relative to; absolute paths are always on the local disk."""
    return LocalTree("/", config) if path.startswith(("/", "file://")) else tree
