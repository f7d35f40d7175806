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

PARTIAL = re.compile(r"\.[0-9a-f]{8}\.partial$")
"""How names of files end that are being written, or were when their writer was killed."""


def partial_name(name: str) -> str:
    """A name to write under: one of its own, as ranks that share a disk may write the same file at the same time."""
    return f"{name}.{secrets.token_hex(4)}.partial"


@contextmanager
def whole_file(path: Path) -> Iterator[BufferedRandom]:
    """A file to write that appears under its name when the block has ended well; an earlier one is replaced then."""
    aside = path.with_name(f".{partial_name(path.name)}")
    try:
        with aside.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    aside.replace(path)
    _flush_folder(path.parent)


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file that appears under its name only when it is whole."""
    with whole_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder to fill that appears as ``place`` when the block has ended well; an earlier one is replaced then."""
    aside = place.with_name(f".{place.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)


@contextmanager
def shared_folder(place: Path) -> Iterator[Path]:
    """As ``whole_folder`` where several processes may make the same folder at once: the first one's stays."""
    aside = place.with_name(f".{partial_name(place.name)}")
    aside.mkdir(parents=True)
    try:
        yield aside
        with suppress(OSError):  # somebody else was first
            aside.rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where folders can be opened for that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
