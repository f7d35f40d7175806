"""The folder of runs: whether it can be written, how fast, and how much room it has."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from pipelines.doctor.check import GIB, CheckResult, JobRequirements, Status

CHUNK_BYTES, MAX_BYTES, MAX_SECONDS = 4 * 2**20, 64 * 2**20, 2.0
"""What is written, until either bound is reached."""
MIN_FREE_BYTES, RECOMMENDED_FREE_BYTES = GIB, 10 * GIB
"""Three checkpoints of SD 1.5, two kept and one being written, take about 7 GiB."""
DISK_REMEDY = "give a --runs that can be written"
SLOW_BYTES_PER_SECOND = 50e6
"""Bytes a second; a checkpoint of SD 1.5 takes most of a minute then."""


def check_disk(requirements: JobRequirements) -> list[CheckResult]:
    """Write and read a file where runs would be, and leave nothing."""
    folder = next(
        path for path in (requirements.runs.absolute(), *requirements.runs.absolute().parents) if path.exists()
    )
    try:
        write_speed, read_speed = _measure_speeds(folder)
    except OSError as error:
        detail = f"{folder} cannot be written ({error.strerror})"
        return [CheckResult(name="runs folder", status="broken", detail=detail, remedy=DISK_REMEDY)]
    free = shutil.disk_usage(folder).free
    detail = f"{folder}: writes {write_speed / 1e6:,.0f} MB/s, reads {read_speed / 1e6:,.0f} MB/s, {free / GIB:,.1f} GiB free"
    if free < RECOMMENDED_FREE_BYTES:
        status: Status = "note" if free >= MIN_FREE_BYTES else "broken"
        remedy = "make room or give another --runs: checkpoints of SD 1.5 take about 7 GiB"
        return [CheckResult(name="runs folder", status=status, detail=detail, remedy=remedy)]
    if write_speed < SLOW_BYTES_PER_SECOND:
        remedy = "slow: save less often (pretrain.checkpoint_every), or give another --runs"
        return [CheckResult(name="runs folder", status="note", detail=detail, remedy=remedy)]
    return [CheckResult(name="runs folder", status="ok", detail=detail)]


def _measure_speeds(folder: Path) -> tuple[float, float]:
    """Bytes a second to the disk and from it, as far as the system can be made to forget what it has just written."""
    chunk = os.urandom(CHUNK_BYTES)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        start, size = time.perf_counter(), 0
        while size < MAX_BYTES and time.perf_counter() - start < MAX_SECONDS:
            size += file.write(chunk)
        os.fsync(file.fileno())
        write_speed = size / (time.perf_counter() - start)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        start, size = time.perf_counter(), 0
        while block := file.read(CHUNK_BYTES):
            size += len(block)
        return write_speed, size / (time.perf_counter() - start)
