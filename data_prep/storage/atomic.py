"""Write files and folders atomically: write to a temporary name, flush to disk, rename."""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

_PARTIAL_PATTERN = re.compile(r"(?P<folder>.*/)?\.?(?P<name>[^/]+)\.[0-9a-f]{8}\.partial")


def partial_name(name: str) -> str:
    """Return a unique temporary name, because several ranks on a shared disk may write the same file at once."""
    return f"{name}.{secrets.token_hex(4)}.partial"


def complete_name_of(path: str) -> str | None:
    """Return the path of the file that a partial file would have become, or None for any other file.

    Partial files are those that are being written, or that a killed process left behind.
    """
    match = _PARTIAL_PATTERN.fullmatch(path)
    return f"{match['folder'] or ''}{match['name']}" if match else None


@contextmanager
def atomic_open(path: Path) -> Iterator[BufferedRandom]:
    """Open a file that appears at ``path`` when the block ends without error, replacing an earlier file."""
    tmp_path = path.with_name(f".{partial_name(path.name)}")
    try:
        with tmp_path.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        tmp_path.unlink(missing_ok=True)
        raise
    tmp_path.replace(path)
    _fsync_dir(path.parent)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file that appears at ``path`` only when it is complete."""
    with atomic_open(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a folder that appears at ``path`` when the block ends without error, replacing an earlier folder."""
    tmp_dir = path.with_name(f".{path.name}.partial")
    shutil.rmtree(tmp_dir, ignore_errors=True)
    tmp_dir.mkdir(parents=True)
    try:
        yield tmp_dir
    except BaseException:
        shutil.rmtree(tmp_dir, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    tmp_dir.rename(path)


@contextmanager
def atomic_dir_shared(path: Path) -> Iterator[Path]:
    """Like ``atomic_dir``, for several processes that create the same folder at once: the first one wins."""
    tmp_dir = path.with_name(f".{partial_name(path.name)}")
    tmp_dir.mkdir(parents=True)
    try:
        yield tmp_dir
        with suppress(OSError):  # another process was first
            tmp_dir.rename(path)
    finally:
        shutil.rmtree(tmp_dir, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync_dir(folder: Path) -> None:
    """Make a rename survive a power failure, on systems where folders can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
