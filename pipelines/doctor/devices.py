"""Check the GPUs and their driver; on a machine without a GPU, report the CPU."""

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.doctor.check import GIB, CheckResult, JobRequirements

MIN_BF16_CAPABILITY = (8, 0)
"""Lowest CUDA compute capability with native bfloat16 arithmetic."""
CPU_FEATURES = {"avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}
NVIDIA_PROC_DIR = Path("/proc/driver/nvidia")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Properties of one GPU as reported by torch."""

    name: str
    memory: int
    """Total device memory in bytes."""
    capability: tuple[int, int]


def count_gpus() -> int:
    """Count visible GPUs from /proc and CUDA_VISIBLE_DEVICES, without importing torch (which takes seconds)."""
    num_present = len(list((NVIDIA_PROC_DIR / "gpus").glob("*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        num_present if visible is None else min(num_present, len([each for each in visible.split(",") if each.strip()]))
    )


def check_devices(requirements: JobRequirements) -> list[CheckResult]:
    """Report the devices that training would use."""
    import torch

    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    gpus = [Gpu(name=each.name, memory=each.total_memory, capability=(each.major, each.minor)) for each in properties]
    if gpus or count_gpus():
        return check_gpus(gpus, torch.version.cuda, _driver_cuda_version(), requirements.nproc)
    features = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    feature_names = [words for flag, words in CPU_FEATURES.items() if flag in features] or ["no AVX-512 and no bf16"]
    detail = (
        f"no GPU; {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, {', '.join(feature_names)}"
    )
    remedy = (
        "enough for the quickstart; Stable Diffusion needs a GPU: e4t plan --device H100 estimates memory and speed"
    )
    return [CheckResult(name="device", status="warn", detail=detail, remedy=remedy)]


def _driver_cuda_version() -> int:
    """Return the newest CUDA version that the driver supports (12040 for 12.4), or 0 without a driver."""
    version = ctypes.c_int(0)
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def check_gpus(gpus: Sequence[Gpu], torch_cuda: str | None, driver_cuda: int, nproc: int) -> list[CheckResult]:
    """Check the GPUs of a machine that has some.

    Args:
        gpus: The GPUs that torch can use.
        torch_cuda: CUDA version that torch was built for; None for a CPU-only build.
        driver_cuda: Newest CUDA version that the driver supports, as 12040 for 12.4; 0 without a driver.
        nproc: Number of ranks that would train here; each needs its own GPU.
    """
    driver_cuda_text = f"{driver_cuda // 1000}.{driver_cuda % 1000 // 10}" if driver_cuda else "none"
    if torch_cuda is None:
        detail, remedy = "the machine has a GPU, but this torch was built without CUDA", "install a CUDA build of torch"
        return [CheckResult(name="device", status="fail", detail=detail, remedy=remedy)]
    if not gpus:
        detail = (
            f"torch finds no usable GPU: it was built for CUDA {torch_cuda}, "
            f"the driver supports up to {driver_cuda_text}"
        )
        remedy = "install a newer driver, or torch for an older CUDA; check nvidia-smi and CUDA_VISIBLE_DEVICES"
        return [CheckResult(name="device", status="fail", detail=detail, remedy=remedy)]
    first = gpus[0]
    has_bf16 = first.capability >= MIN_BF16_CAPABILITY
    detail = (
        f"{len(gpus)} x {first.name}, {first.memory / GIB:.0f} GiB, {'bf16' if has_bf16 else 'no bf16'}; "
        f"torch for CUDA {torch_cuda}, the driver supports up to {driver_cuda_text}"
    )
    if nproc > len(gpus):
        remedy = f"give --nproc {len(gpus)}: each rank needs its own GPU"
        return [CheckResult(name="device", status="fail", detail=f"{nproc} ranks, but {detail}", remedy=remedy)]
    if not has_bf16:
        return [CheckResult(name="device", status="warn", detail=detail, remedy="set pretrain.precision to fp16")]
    return [CheckResult(name="device", status="ok", detail=detail)]
