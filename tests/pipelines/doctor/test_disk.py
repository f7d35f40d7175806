"""The check of the runs folder: writable, missing, read-only."""

from pathlib import Path

import pytest

from pipelines.doctor.check import JobRequirements
from pipelines.doctor.disk import check_disk


def test_speed_and_free_space_are_reported_and_no_file_is_left(tmp_path: Path) -> None:
    (result,) = check_disk(JobRequirements(runs=tmp_path / "not" / "yet", nproc=2))
    assert result.status != "fail"
    assert all(word in result.detail for word in (str(tmp_path), "MB/s", "GiB free"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["file", "read-only"])
def test_a_folder_that_is_not_writable_fails(tmp_path: Path, where: str) -> None:
    """Even root cannot write below /proc."""
    runs = Path("/proc/e4t")
    if where == "file":
        runs = tmp_path / "runs"
        runs.write_text("a file")
    (result,) = check_disk(JobRequirements(runs=runs, nproc=2))
    assert result.status == "fail"
    assert "cannot be written" in result.detail
    assert "--runs" in result.remedy
