"""Memory of the machine, what this process may have of it, and what ranks share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.check import GIB, CheckResult, JobRequirements

RANK_OVERHEAD_BYTES = GIB
"""Bytes of a rank before it holds a single weight; 0.8 GiB was measured."""
MIN_SHARED_BYTES, RECOMMENDED_SHARED_BYTES = 64 * 2**20, 256 * 2**20
"""Bytes of shared memory for each rank: its batches ahead (63 MB of 5 times 16 pictures of 512 pixels), and NCCL's
buffers, up to some tens of MB for each neighbour."""


def check_memory(requirements: JobRequirements) -> list[CheckResult]:
    """What is free, by the machine and by the control group, the smaller one."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines}
    total, free = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    detail, limit = f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free", cgroup_memory_limit()
    if limit is not None and limit < total:
        free = min(free, limit)
        detail += f"; the control group allows {limit / GIB:.1f} GiB"
    if free < requirements.nproc * RANK_OVERHEAD_BYTES:
        remedy = f"make room or ask for more: {requirements.nproc} ranks take {requirements.nproc * RANK_OVERHEAD_BYTES // GIB} GiB at rest"
        return [CheckResult(name="memory", status="broken", detail=detail, remedy=remedy)]
    return [CheckResult(name="memory", status="ok", detail=detail)]


def cgroup_memory_limit(
    cgroup_file: Path = Path("/proc/self/cgroup"), cgroup_root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that the control groups above this process allow, the least of them; None if none says so.

    ``own`` names the groups, ``root`` is where they are mounted: version 2, or version 1 with a folder a controller.
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


def check_shared_memory(requirements: JobRequirements, folder: Path = Path("/dev/shm")) -> list[CheckResult]:  # noqa: S108 - it is looked at
    """Whether batches and NCCL's buffers have room; ``folder`` is where the system keeps shared memory."""
    free = shutil.disk_usage(folder).free
    detail = f"{folder} has {free / GIB:.2f} GiB free; {requirements.nproc} ranks want {requirements.nproc * RECOMMENDED_SHARED_BYTES / GIB:.2f}"
    remedy = "give the container more: --shm-size 4g (docker), shared_memory: 4Gi (site of e4t submit k8s)"
    if free < requirements.nproc * MIN_SHARED_BYTES:
        return [CheckResult(name="shared memory", status="broken", detail=detail, remedy=remedy)]
    if free < requirements.nproc * RECOMMENDED_SHARED_BYTES:
        return [CheckResult(name="shared memory", status="note", detail=detail, remedy=remedy)]
    return [CheckResult(name="shared memory", status="ok", detail=detail)]
