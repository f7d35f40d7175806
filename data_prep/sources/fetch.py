"""Files that a row names, by path or URL of any kind that fsspec opens."""

from typing import Any

from data_prep.records import SampleRejected
from data_prep.sources.filesystem import MAX_FILE_BYTES, FileTree, LocalTree, is_local, reraise_as_oserror


def fetch(tree: FileTree, path: str) -> bytes:
    """The file at a URL, or at a path relative to a folder.

    Raises OSError if it cannot be had, Rejected if it is too large.
    """
    if is_local(path):
        data = _root_for(tree, path).read(path.removeprefix("file://"))
    else:
        import fsspec.core

        with reraise_as_oserror(path):
            fs, remote_path = fsspec.core.url_to_fs(path)
            data = _read_limited(fs, remote_path)
    return limit_size(data)


def limit_size(data: bytes) -> bytes:
    """The bytes; raises Rejected for more than are taken."""
    if len(data) > MAX_FILE_BYTES:
        raise SampleRejected("file too large")
    return data


def version_of(tree: FileTree, path: str) -> str:
    """Changes when a file on this machine's disk does; nothing is known of others without a request for each."""
    root = _root_for(tree, path)
    if not (is_local(path) and isinstance(root, LocalTree)):
        return ""
    try:
        return root.entry(path.removeprefix("file://")).version
    except OSError:
        return "missing"


def _root_for(tree: FileTree, path: str) -> FileTree:
    """Where a path that is no URL leads from: an absolute one is always on this machine's disk."""
    return LocalTree("/") if path.startswith(("/", "file://")) else tree


def _read_limited(fs: Any, path: str) -> bytes:  # noqa: ANN401 - fsspec has no types
    """One byte more than is taken at most, so that too many can be told."""
    return bytes(fs.cat_file(path, start=0, end=MAX_FILE_BYTES + 1))
