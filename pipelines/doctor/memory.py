"""Memory of the machine, what this process may have of it, and what ranks share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.check import GIB, Finding, Needs

LIBRARIES = GIB
"""Bytes of a rank before it holds a single weight; 0.8 GiB was measured."""
SHARED_AT_LEAST, SHARED = 64 * 2**20, 256 * 2**20
"""Bytes of shared memory for each rank: its batches ahead (63 MB of 5 times 16 pictures of 512 pixels), and NCCL's
buffers, up to some tens of MB for each neighbour."""


def memory(needs: Needs) -> list[Finding]:
    """What is free, by the machine and by the control group, the smaller one."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines}
    total, free = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    found, limit = f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free", smallest_limit()
    if limit is not None and limit < total:
        free = min(free, limit)
        found += f"; the control group allows {limit / GIB:.1f} GiB"
    if free < needs.nproc * LIBRARIES:
        remedy = f"make room or ask for more: {needs.nproc} ranks take {needs.nproc * LIBRARIES // GIB} GiB at rest"
        return [Finding(what="memory", state="broken", found=found, remedy=remedy)]
    return [Finding(what="memory", state="ok", found=found)]


def smallest_limit(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the control groups above this process allow, the least of them; None if none says so.

    ``own`` names the groups, ``root`` is where they are mounted: version 2, or version 1 with a folder a controller.
    """
    limits = [
        int(text) for path in _limit_files(own, root) if path.is_file() and (text := path.read_text().strip()) != "max"
    ]
    return min(limits, default=None)


def _limit_files(own: Path, root: Path) -> Iterator[Path]:
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        inside = Path(group.lstrip("/"))
        yield from (base / part / file for part in (inside, *inside.parents))


def shared_memory(needs: Needs, folder: Path = Path("/dev/shm")) -> list[Finding]:  # noqa: S108 - it is looked at
    """Whether batches and NCCL's buffers have room; ``folder`` is where the system keeps shared memory."""
    free = shutil.disk_usage(folder).free
    found = f"{folder} has {free / GIB:.2f} GiB free; {needs.nproc} ranks want {needs.nproc * SHARED / GIB:.2f}"
    remedy = "give the container more: --shm-size 4g (docker), shared_memory: 4Gi (site of e4t submit k8s)"
    if free < needs.nproc * SHARED_AT_LEAST:
        return [Finding(what="shared memory", state="broken", found=found, remedy=remedy)]
    if free < needs.nproc * SHARED:
        return [Finding(what="shared memory", state="note", found=found, remedy=remedy)]
    return [Finding(what="shared memory", state="ok", found=found)]
