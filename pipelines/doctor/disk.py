"""The folder of runs: whether it can be written, how fast, and how much room it has."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from pipelines.doctor.check import GIB, Finding, Needs, State

CHUNK, MOST_BYTES, MOST_SECONDS = 4 * 2**20, 64 * 2**20, 2.0
"""What is written, until either bound is reached."""
ROOM_AT_LEAST, ROOM = GIB, 10 * GIB
"""Three checkpoints of SD 1.5, two kept and one being written, take about 7 GiB."""
REMEDY = "give a --runs that can be written"
SLOW = 50e6
"""Bytes a second; a checkpoint of SD 1.5 takes most of a minute then."""


def disk(needs: Needs) -> list[Finding]:
    """Write and read a file where runs would be, and leave nothing."""
    folder = next(path for path in (needs.runs.absolute(), *needs.runs.absolute().parents) if path.exists())
    try:
        written, read = _speeds(folder)
    except OSError as error:
        found = f"{folder} cannot be written ({error.strerror})"
        return [Finding(what="runs folder", state="broken", found=found, remedy=REMEDY)]
    free = shutil.disk_usage(folder).free
    found = f"{folder}: writes {written / 1e6:,.0f} MB/s, reads {read / 1e6:,.0f} MB/s, {free / GIB:,.1f} GiB free"
    if free < ROOM:
        state: State = "note" if free >= ROOM_AT_LEAST else "broken"
        remedy = "make room or give another --runs: checkpoints of SD 1.5 take about 7 GiB"
        return [Finding(what="runs folder", state=state, found=found, remedy=remedy)]
    if written < SLOW:
        remedy = "slow: save less often (pretrain.checkpoint_every), or give another --runs"
        return [Finding(what="runs folder", state="note", found=found, remedy=remedy)]
    return [Finding(what="runs folder", state="ok", found=found)]


def _speeds(folder: Path) -> tuple[float, float]:
    """Bytes a second to the disk and from it, as far as the system can be made to forget what it has just written."""
    chunk = os.urandom(CHUNK)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        start, size = time.perf_counter(), 0
        while size < MOST_BYTES and time.perf_counter() - start < MOST_SECONDS:
            size += file.write(chunk)
        os.fsync(file.fileno())
        written = size / (time.perf_counter() - start)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        start, size = time.perf_counter(), 0
        while got := file.read(CHUNK):
            size += len(got)
        return written, size / (time.perf_counter() - start)
