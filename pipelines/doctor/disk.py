"""Check that the folder of runs is writable, and measure its speed and free space."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from pipelines.doctor.check import GIB, CheckResult, JobRequirements, Status

CHUNK_BYTES, MAX_BYTES, MAX_SECONDS = 4 * 2**20, 64 * 2**20, 2.0
"""Size of one write in bytes, and the limits of the speed test: total bytes and seconds, whichever comes first."""
MIN_FREE_BYTES, RECOMMENDED_FREE_BYTES = GIB, 10 * GIB
"""Free bytes below which the check fails or warns. Three SD 1.5 checkpoints take about 7 GiB."""
DISK_REMEDY = "set --runs to a writable folder"
SLOW_BYTES_PER_SECOND = 50e6
"""Bytes per second below which the check warns: saving an SD 1.5 checkpoint would take most of a minute."""


def check_disk(requirements: JobRequirements) -> list[CheckResult]:
    """Write and read a temporary file in the folder of runs, or in its nearest existing parent."""
    folder = next(
        path for path in (requirements.runs.absolute(), *requirements.runs.absolute().parents) if path.exists()
    )
    try:
        write_speed, read_speed = _measure_speeds(folder)
    except OSError as error:
        detail = f"{folder} cannot be written ({error.strerror})"
        return [CheckResult(name="runs folder", status="fail", detail=detail, remedy=DISK_REMEDY)]
    free = shutil.disk_usage(folder).free
    detail = (
        f"{folder}: writes {write_speed / 1e6:,.0f} MB/s, reads {read_speed / 1e6:,.0f} MB/s, "
        f"{free / GIB:,.1f} GiB free"
    )
    if free < RECOMMENDED_FREE_BYTES:
        status: Status = "warn" if free >= MIN_FREE_BYTES else "fail"
        remedy = "free some space or set --runs to another disk: SD 1.5 checkpoints take about 7 GiB"
        return [CheckResult(name="runs folder", status=status, detail=detail, remedy=remedy)]
    if write_speed < SLOW_BYTES_PER_SECOND:
        remedy = "slow disk: raise pretrain.checkpoint_every, or set --runs to another disk"
        return [CheckResult(name="runs folder", status="warn", detail=detail, remedy=remedy)]
    return [CheckResult(name="runs folder", status="ok", detail=detail)]


def _measure_speeds(folder: Path) -> tuple[float, float]:
    """Return write and read speed in bytes per second. The page cache is dropped before reading."""
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
