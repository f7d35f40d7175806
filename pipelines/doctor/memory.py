"""Check free host memory, the cgroup limit, and shared memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.check import GIB, CheckResult, JobRequirements

RANK_OVERHEAD_BYTES = GIB
"""Host memory in bytes of one rank before it loads weights (0.8 GiB measured)."""
MIN_SHARED_BYTES, RECOMMENDED_SHARED_BYTES = 64 * 2**20, 256 * 2**20
"""Shared memory in bytes per rank below which the check fails or warns.

It holds prefetched batches (63 MB for 5 batches of 16 images at 512 pixels) and NCCL buffers (tens of MB per peer)."""


def check_memory(requirements: JobRequirements) -> list[CheckResult]:
    """Check that free memory, limited by the cgroup, is enough for all ranks."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines}
    total, free = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    detail, limit = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free", cgroup_memory_limit()
    if limit is not None and limit < total:
        free = min(free, limit)
        detail += f"; the cgroup limit is {limit / GIB:.1f} GiB"
    if free < requirements.nproc * RANK_OVERHEAD_BYTES:
        needed = requirements.nproc * RANK_OVERHEAD_BYTES // GIB
        remedy = f"free memory or request more: {requirements.nproc} ranks take {needed} GiB before they load weights"
        return [CheckResult(name="memory", status="fail", detail=detail, remedy=remedy)]
    return [CheckResult(name="memory", status="ok", detail=detail)]


def cgroup_memory_limit(
    cgroup_file: Path = Path("/proc/self/cgroup"), cgroup_root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the smallest memory limit in bytes among the cgroups of this process, or None without a limit.

    Args:
        cgroup_file: Lists the cgroups of this process.
        cgroup_root: Where cgroups are mounted: version 2, or version 1 with one folder per controller.
    """
    limits = [
        int(text)
        for path in _limit_files(cgroup_file, cgroup_root)
        if path.is_file() and (text := path.read_text().strip()) != "max"
    ]
    return min(limits, default=None)


def _limit_files(cgroup_file: Path, cgroup_root: Path) -> Iterator[Path]:
    for line in cgroup_file.read_text().splitlines() if cgroup_file.exists() else ():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, file = (cgroup_root / "memory", "memory.limit_in_bytes") if controllers else (cgroup_root, "memory.max")
        group_path = Path(group.lstrip("/"))
        yield from (base / part / file for part in (group_path, *group_path.parents))


def check_shared_memory(requirements: JobRequirements, folder: Path = Path("/dev/shm")) -> list[CheckResult]:  # noqa: S108 - only inspected
    """Check that shared memory (mounted at ``folder``) is large enough for prefetched batches and NCCL buffers."""
    free = shutil.disk_usage(folder).free
    recommended = requirements.nproc * RECOMMENDED_SHARED_BYTES
    detail = (
        f"{folder} has {free / GIB:.2f} GiB free; {requirements.nproc} ranks need up to {recommended / GIB:.2f} GiB"
    )
    remedy = (
        "increase the container's shared memory: --shm-size 4g (docker), shared_memory: 4Gi (site of e4t submit k8s)"
    )
    if free < requirements.nproc * MIN_SHARED_BYTES:
        return [CheckResult(name="shared memory", status="fail", detail=detail, remedy=remedy)]
    if free < recommended:
        return [CheckResult(name="shared memory", status="warn", detail=detail, remedy=remedy)]
    return [CheckResult(name="shared memory", status="ok", detail=detail)]
