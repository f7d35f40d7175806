"""Checks that succeed, raise, crash or hang: each becomes one result, and none blocks the others."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipelines.doctor.check import Check, CheckResult, JobRequirements
from pipelines.doctor.checks import CHECKS
from pipelines.doctor.runner import run_checks

NEEDS = JobRequirements(runs=Path("runs"), nproc=2)


def answers(needs: JobRequirements) -> list[CheckResult]:
    print("output of a library")
    return [CheckResult(name="answers", status="ok", detail=f"{needs.nproc} ranks")]


def raises(_: JobRequirements) -> list[CheckResult]:
    raise OSError("no such thing at http://me:secret@host/\nand more")


def crashes(_: JobRequirements) -> list[CheckResult]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def hangs(needs: JobRequirements) -> list[CheckResult]:
    child = subprocess.Popen(["sleep", "600"])  # noqa: S607 - a program of the system's
    (needs.runs / "child").write_text(str(child.pid))
    time.sleep(600)
    return []


def check(look, **more) -> Check:
    return Check(name=look.__name__, run=look, **{"timeout_seconds": 20, "remedy": "repair it", **more})


def test_results_keep_the_order_of_their_checks_and_library_output_is_discarded(
    capfd: pytest.CaptureFixture[str],
) -> None:
    watched: list[tuple[int, int]] = []
    results = run_checks([check(raises), check(answers, exclusive=True)], NEEDS, lambda *done: watched.append(done))
    assert [(each.name, each.status) for each in results] == [("raises", "fail"), ("answers", "ok")]
    assert results[1].detail == "2 ranks"
    assert watched == [(1, 2), (2, 2)]
    assert capfd.readouterr() == ("", "")


def test_an_exception_becomes_one_line_without_its_password() -> None:
    (result,) = run_checks([check(raises)], NEEDS)
    assert result.detail == "OSError: no such thing at http://***@host/"
    assert result.remedy == "repair it"


def test_a_failed_optional_check_is_a_warning() -> None:
    (result,) = run_checks([check(raises, required=False)], NEEDS)
    assert result.status == "warn"


def test_a_crash_is_reported_with_its_signal() -> None:
    (result,) = run_checks([check(crashes)], NEEDS)
    assert (result.status, result.detail) == ("fail", "crashed: SIGSEGV")


def test_a_hanging_check_is_killed_with_its_children_and_the_others_finish(tmp_path: Path) -> None:
    begin = time.monotonic()
    results = run_checks([check(hangs, timeout_seconds=6), check(answers)], JobRequirements(runs=tmp_path, nproc=2))
    assert time.monotonic() - begin < 60
    assert [each.status for each in results] == ["fail", "ok"]
    assert results[0].detail.startswith("timed out after 6 s")
    child = Path("/proc", (tmp_path / "child").read_text(), "cmdline")
    while child.exists() and child.read_bytes():  # until the system has ended it
        assert time.monotonic() - begin < 60
        time.sleep(0.05)


def test_the_sum_of_all_time_limits_is_bounded() -> None:
    limits = [
        [check.timeout_seconds for check in CHECKS if check.exclusive is exclusive] for exclusive in (True, False)
    ]
    assert sum(limits[0]) + max(limits[1]) <= 23
