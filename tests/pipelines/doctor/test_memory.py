"""The checks of memory, of cgroup limits (versions 1 and 2) and of shared memory."""

from pathlib import Path

import pytest

from pipelines.doctor.check import JobRequirements
from pipelines.doctor.memory import cgroup_memory_limit, check_memory, check_shared_memory


def needs(nproc: int) -> JobRequirements:
    return JobRequirements(runs=Path("runs"), nproc=nproc)


def test_free_memory_is_reported_and_too_many_ranks_fail() -> None:
    assert "GiB free" in check_memory(needs(1))[0].detail
    assert check_memory(needs(10_000))[0].status == "fail"


@pytest.mark.parametrize(
    ("line", "file"), [("0::/a/b", "a/memory.max"), ("4:memory:/a/b", "memory/a/memory.limit_in_bytes")]
)
def test_the_smallest_limit_of_all_parent_cgroups_counts(tmp_path: Path, line: str, file: str) -> None:
    (tmp_path / "own").write_text(f"9:name=systemd:/x\n{line}\n")
    limit = tmp_path / file
    (limit.parent / "b").mkdir(parents=True)
    limit.write_text("1000\n")
    (limit.parent / "b" / limit.name).write_text("2000\n")
    assert cgroup_memory_limit(tmp_path / "own", tmp_path) == 1000


def test_a_cgroup_without_a_limit_returns_none(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert cgroup_memory_limit(tmp_path / "own", tmp_path) is None


def test_too_little_shared_memory_fails_and_less_than_recommended_warns(tmp_path: Path) -> None:
    from shutil import disk_usage

    free = disk_usage(tmp_path).free
    assert check_shared_memory(needs(1), tmp_path)[0].status == "ok"
    assert check_shared_memory(needs(free // (128 * 2**20)), tmp_path)[0].status == "warn"
    (result,) = check_shared_memory(needs(free // 2**20), tmp_path)
    assert result.status == "fail"
    assert "--shm-size" in result.remedy
