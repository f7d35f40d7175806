"""What a machine with GPUs is told, and what this one is."""

from pathlib import Path

import pytest

from pipelines.doctor.check import GIB, JobRequirements
from pipelines.doctor.devices import Gpu, check_devices, check_gpus, count_gpus

H100 = Gpu(name="NVIDIA H100", memory=79 * GIB, capability=(9, 0))
T4 = Gpu(name="Tesla T4", memory=15 * GIB, capability=(7, 5))


def test_gpus_are_told_with_memory_precision_and_both_versions_of_cuda() -> None:
    (found,) = check_gpus([H100, H100], "12.8", 12090, nproc=2)
    assert found.status == "ok"
    assert found.detail == "2 x NVIDIA H100, 79 GiB, bf16; torch for CUDA 12.8, the driver takes 12.9"


@pytest.mark.parametrize(
    ("gpus", "cuda", "driver", "nproc", "state", "words"),
    [
        ([], None, 12090, 1, "broken", "built without CUDA"),
        ([], "13.0", 12040, 1, "broken", "built for CUDA 13.0, the driver takes 12.4"),
        ([H100], "12.8", 12090, 4, "broken", "4 ranks, but 1 x"),
        ([T4], "12.8", 12090, 1, "note", "no bf16"),
    ],
)
def test_what_does_not_fit_says_why(
    gpus: list[Gpu], cuda: str | None, driver: int, nproc: int, state: str, words: str
) -> None:
    (found,) = check_gpus(gpus, cuda, driver, nproc)
    assert found.status == state
    assert words in found.detail
    assert found.remedy


@pytest.mark.skipif(count_gpus() > 0, reason="this machine has a GPU")
def test_without_a_gpu_cores_threads_and_their_precision_are_told(tmp_path: Path) -> None:
    (found,) = check_devices(JobRequirements(runs=tmp_path, nproc=2))
    assert found.status == "note"
    assert all(word in found.detail for word in ("no GPU", "cores", "threads"))
