"""The folder of runs: fast, missing, or not to be written."""

from pathlib import Path

import pytest

from pipelines.doctor.check import JobRequirements
from pipelines.doctor.disk import check_disk


def test_speeds_and_room_are_told_and_nothing_is_left(tmp_path: Path) -> None:
    (found,) = check_disk(JobRequirements(runs=tmp_path / "not" / "yet", nproc=2))
    assert found.status != "broken"
    assert all(word in found.detail for word in (str(tmp_path), "MB/s", "GiB free"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["file", "read-only"])
def test_a_folder_that_cannot_be_written_is_broken(tmp_path: Path, where: str) -> None:
    """Even root cannot write below /proc."""
    runs = Path("/proc/e4t")
    if where == "file":
        runs = tmp_path / "runs"
        runs.write_text("a file")
    (found,) = check_disk(JobRequirements(runs=runs, nproc=2))
    assert found.status == "broken"
    assert "cannot be written" in found.detail
    assert "--runs" in found.remedy
