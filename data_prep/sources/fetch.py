"""Fetch files that table rows refer to by path or by any fsspec URL."""

from data_prep.errors import SampleRejected
from data_prep.sources.filesystem import MAX_FILE_BYTES, FileTree, LocalTree, is_local, reraise_as_oserror


def fetch(tree: FileTree, path: str) -> bytes:
    """Read the file at a URL, or at a path relative to ``tree``.

    Raises OSError if it cannot be read and SampleRejected if it is too large.
    """
    if is_local(path):
        data = _root_for(tree, path).read(path.removeprefix("file://"))
    else:
        import fsspec.core

        with reraise_as_oserror(path):
            fs, remote_path = fsspec.core.url_to_fs(path)
            # One byte more than allowed, so that limit_size notices larger files.
            data = bytes(fs.cat_file(remote_path, start=0, end=MAX_FILE_BYTES + 1))
    return limit_size(data)


def limit_size(data: bytes) -> bytes:
    """Return the data unchanged. Raises SampleRejected if it is larger than ``MAX_FILE_BYTES``."""
    if len(data) > MAX_FILE_BYTES:
        raise SampleRejected("file too large")
    return data


def version_of(tree: FileTree, path: str) -> str:
    """Return the version of a local file. Remote files have none, because each would cost a request."""
    root = _root_for(tree, path)
    if not (is_local(path) and isinstance(root, LocalTree)):
        return ""
    try:
        return root.entry(path.removeprefix("file://")).version
    except OSError:
        return "missing"


def _root_for(tree: FileTree, path: str) -> FileTree:
    """Return the tree that a path is relative to; absolute paths are always on the local disk."""
    return LocalTree("/") if path.startswith(("/", "file://")) else tree
