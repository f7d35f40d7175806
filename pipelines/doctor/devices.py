"""GPUs and what their driver takes; without any, the processor."""

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.doctor.check import GIB, Finding, Needs

FIRST_BF16 = (8, 0)
"""Compute capability from which on a GPU has bfloat16 of its own."""
FEATURES = {"avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}
DRIVER = Path("/proc/driver/nvidia")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as torch sees it."""

    name: str
    memory: int
    """Bytes."""
    capability: tuple[int, int]


def gpus_here() -> int:
    """GPUs by the driver's own list and the environment, without waiting for torch."""
    there = len(list((DRIVER / "gpus").glob("*")))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if chosen is None else min(there, len([each for each in chosen.split(",") if each.strip()]))


def devices(needs: Needs) -> list[Finding]:
    """What would compute."""
    import torch

    seen = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    gpus = [Gpu(name=each.name, memory=each.total_memory, capability=(each.major, each.minor)) for each in seen]
    if gpus or gpus_here():
        return of_gpus(gpus, torch.version.cuda, _driver(), needs.nproc)
    features = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    known = [words for flag, words in FEATURES.items() if flag in features] or ["neither AVX-512 nor bf16"]
    found = f"no GPU; {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, {', '.join(known)}"
    remedy = "enough for the quickstart; Stable Diffusion takes a GPU: e4t plan --device H100 tells which"
    return [Finding(what="device", state="note", found=found, remedy=remedy)]


def _driver() -> int:
    """The newest CUDA that the driver takes, as its own library says; 0 if there is no such library."""
    version = ctypes.c_int(0)
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def of_gpus(gpus: Sequence[Gpu], cuda: str | None, driver: int, nproc: int) -> list[Finding]:
    """On a machine with GPUs.

    ``cuda`` is what torch was built for, None for a build without; ``driver`` the CUDA that the driver takes, as 12040
    for 12.4, 0 if there is none.
    """
    takes = f"{driver // 1000}.{driver % 1000 // 10}" if driver else "none"
    if cuda is None:
        found, remedy = "the machine has a GPU, but this torch was built without CUDA", "install torch's CUDA build"
        return [Finding(what="device", state="broken", found=found, remedy=remedy)]
    if not gpus:
        found = f"torch finds no GPU: it was built for CUDA {cuda}, the driver takes {takes}"
        remedy = "install a newer driver, or torch for an older CUDA; look at nvidia-smi and CUDA_VISIBLE_DEVICES"
        return [Finding(what="device", state="broken", found=found, remedy=remedy)]
    first = gpus[0]
    has_bf16 = first.capability >= FIRST_BF16
    found = (
        f"{len(gpus)} x {first.name}, {first.memory / GIB:.0f} GiB, {'bf16' if has_bf16 else 'no bf16'}; "
        f"torch for CUDA {cuda}, the driver takes {takes}"
    )
    if nproc > len(gpus):
        remedy = f"give --nproc {len(gpus)}: a rank has a GPU of its own"
        return [Finding(what="device", state="broken", found=f"{nproc} ranks, but {found}", remedy=remedy)]
    if not has_bf16:
        return [Finding(what="device", state="note", found=found, remedy="give --pretrain.precision fp16")]
    return [Finding(what="device", state="ok", found=found)]
