"""GPUs and what their driver takes; without any, the processor."""

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.doctor.check import GIB, CheckResult, JobRequirements

MIN_BF16_CAPABILITY = (8, 0)
"""Compute capability from which on a GPU has bfloat16 of its own."""
CPU_FEATURES = {"avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}
NVIDIA_PROC_DIR = Path("/proc/driver/nvidia")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as torch sees it."""

    name: str
    memory: int
    """Bytes."""
    capability: tuple[int, int]


def count_gpus() -> int:
    """GPUs by the driver's own list and the environment, without waiting for torch."""
    num_present = len(list((NVIDIA_PROC_DIR / "gpus").glob("*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        num_present if visible is None else min(num_present, len([each for each in visible.split(",") if each.strip()]))
    )


def check_devices(requirements: JobRequirements) -> list[CheckResult]:
    """What would compute."""
    import torch

    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    gpus = [Gpu(name=each.name, memory=each.total_memory, capability=(each.major, each.minor)) for each in properties]
    if gpus or count_gpus():
        return check_gpus(gpus, torch.version.cuda, _driver_cuda_version(), requirements.nproc)
    features = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    feature_names = [words for flag, words in CPU_FEATURES.items() if flag in features] or ["neither AVX-512 nor bf16"]
    detail = (
        f"no GPU; {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, {', '.join(feature_names)}"
    )
    remedy = "enough for the quickstart; Stable Diffusion takes a GPU: e4t plan --device H100 tells which"
    return [CheckResult(name="device", status="note", detail=detail, remedy=remedy)]


def _driver_cuda_version() -> int:
    """The newest CUDA that the driver takes, as its own library says; 0 if there is no such library."""
    version = ctypes.c_int(0)
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def check_gpus(gpus: Sequence[Gpu], torch_cuda: str | None, driver_cuda: int, nproc: int) -> list[CheckResult]:
    """On a machine with GPUs.

    ``cuda`` is what torch was built for, None for a build without; ``driver`` the CUDA that the driver takes, as 12040
    for 12.4, 0 if there is none.
    """
    driver_cuda_text = f"{driver_cuda // 1000}.{driver_cuda % 1000 // 10}" if driver_cuda else "none"
    if torch_cuda is None:
        detail, remedy = "the machine has a GPU, but this torch was built without CUDA", "install torch's CUDA build"
        return [CheckResult(name="device", status="broken", detail=detail, remedy=remedy)]
    if not gpus:
        detail = f"torch finds no GPU: it was built for CUDA {torch_cuda}, the driver takes {driver_cuda_text}"
        remedy = "install a newer driver, or torch for an older CUDA; look at nvidia-smi and CUDA_VISIBLE_DEVICES"
        return [CheckResult(name="device", status="broken", detail=detail, remedy=remedy)]
    first = gpus[0]
    has_bf16 = first.capability >= MIN_BF16_CAPABILITY
    detail = (
        f"{len(gpus)} x {first.name}, {first.memory / GIB:.0f} GiB, {'bf16' if has_bf16 else 'no bf16'}; "
        f"torch for CUDA {torch_cuda}, the driver takes {driver_cuda_text}"
    )
    if nproc > len(gpus):
        remedy = f"give --nproc {len(gpus)}: a rank has a GPU of its own"
        return [CheckResult(name="device", status="broken", detail=f"{nproc} ranks, but {detail}", remedy=remedy)]
    if not has_bf16:
        return [CheckResult(name="device", status="note", detail=detail, remedy="give --pretrain.precision fp16")]
    return [CheckResult(name="device", status="ok", detail=detail)]
