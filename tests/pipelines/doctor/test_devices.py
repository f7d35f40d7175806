"""The device check, with described GPUs and on this machine."""

from pathlib import Path

import pytest

from pipelines.doctor.check import GIB, JobRequirements
from pipelines.doctor.devices import Gpu, check_devices, check_gpus, count_gpus

H100 = Gpu(name="NVIDIA H100", memory=79 * GIB, capability=(9, 0))
T4 = Gpu(name="Tesla T4", memory=15 * GIB, capability=(7, 5))


def test_gpus_are_reported_with_memory_precision_and_both_cuda_versions() -> None:
    (result,) = check_gpus([H100, H100], "12.8", 12090, nproc=2)
    assert result.status == "ok"
    assert result.detail == "2 x NVIDIA H100, 79 GiB, bf16; torch for CUDA 12.8, the driver supports up to 12.9"


@pytest.mark.parametrize(
    ("gpus", "cuda", "driver", "nproc", "state", "words"),
    [
        ([], None, 12090, 1, "fail", "built without CUDA"),
        ([], "13.0", 12040, 1, "fail", "built for CUDA 13.0, the driver supports up to 12.4"),
        ([H100], "12.8", 12090, 4, "fail", "4 ranks, but 1 x"),
        ([T4], "12.8", 12090, 1, "warn", "no bf16"),
    ],
)
def test_a_mismatch_is_reported_with_its_reason(
    gpus: list[Gpu], cuda: str | None, driver: int, nproc: int, state: str, words: str
) -> None:
    (result,) = check_gpus(gpus, cuda, driver, nproc)
    assert result.status == state
    assert words in result.detail
    assert result.remedy


@pytest.mark.skipif(count_gpus() > 0, reason="this machine has a GPU")
def test_without_a_gpu_cores_threads_and_precision_are_reported(tmp_path: Path) -> None:
    (result,) = check_devices(JobRequirements(runs=tmp_path, nproc=2))
    assert result.status == "warn"
    assert all(word in result.detail for word in ("no GPU", "cores", "threads"))
