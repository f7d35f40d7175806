"""Nothing half written is ever taken for whole: write aside, flush to the disk, rename."""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

PARTIAL_PATTERN = re.compile(r"\.[0-9a-f]{8}\.partial$")
"""How names of files end that are being written, or were when their writer was killed."""


def partial_name(name: str) -> str:
    """A name to write under: one of its own, as ranks that share a disk may write the same file at the same time."""
    return f"{name}.{secrets.token_hex(4)}.partial"


@contextmanager
def atomic_open(path: Path) -> Iterator[BufferedRandom]:
    """A file to write that appears under its name when the block has ended well; an earlier one is replaced then."""
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
    """Write a file that appears under its name only when it is whole."""
    with atomic_open(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """A folder to fill that appears as ``place`` when the block has ended well; an earlier one is replaced then."""
    tmp_dir = path.with_name(f".{path.name}.partial")
    shutil.rmtree(tmp_dir, ignore_errors=True)
    tmp_dir.mkdir(parents=True)
    yield tmp_dir
    shutil.rmtree(path, ignore_errors=True)
    tmp_dir.rename(path)


@contextmanager
def atomic_dir_shared(path: Path) -> Iterator[Path]:
    """As ``whole_folder`` where several processes may make the same folder at once: the first one's stays."""
    tmp_dir = path.with_name(f".{partial_name(path.name)}")
    tmp_dir.mkdir(parents=True)
    try:
        yield tmp_dir
        with suppress(OSError):  # somebody else was first
            tmp_dir.rename(path)
    finally:
        shutil.rmtree(tmp_dir, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync_dir(folder: Path) -> None:
    """Make the rename itself survive a power cut, where folders can be opened for that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
