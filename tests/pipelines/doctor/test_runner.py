"""Checks that answer, raise, crash and hang: each is a line, and none holds up the others."""

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
    print("what libraries say nobody sees")
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
    return Check(name=look.__name__, run=look, **{"seconds": 20, "remedy": "mend it", **more})


def test_findings_come_in_the_order_of_their_checks_and_the_terminal_stays_clean(
    capfd: pytest.CaptureFixture[str],
) -> None:
    watched: list[tuple[int, int]] = []
    found = run_checks([check(raises), check(answers, alone=True)], NEEDS, lambda *done: watched.append(done))
    assert [(each.name, each.status) for each in found] == [("raises", "broken"), ("answers", "ok")]
    assert found[1].detail == "2 ranks"
    assert watched == [(1, 2), (2, 2)]
    assert capfd.readouterr() == ("", "")


def test_an_error_is_one_line_without_the_password_in_it() -> None:
    (found,) = run_checks([check(raises)], NEEDS)
    assert found.detail == "OSError: no such thing at http://***@host/"
    assert found.remedy == "mend it"


def test_what_is_not_needed_and_fails_is_a_note() -> None:
    (found,) = run_checks([check(raises, needed=False)], NEEDS)
    assert found.status == "note"


def test_a_crash_is_a_line() -> None:
    (found,) = run_checks([check(crashes)], NEEDS)
    assert (found.status, found.detail) == ("broken", "crashed: SIGSEGV")


def test_a_check_that_hangs_is_ended_with_what_it_started_and_the_others_are_heard(tmp_path: Path) -> None:
    begin = time.monotonic()
    found = run_checks([check(hangs, seconds=6), check(answers)], JobRequirements(runs=tmp_path, nproc=2))
    assert time.monotonic() - begin < 60
    assert [each.status for each in found] == ["broken", "ok"]
    assert found[0].detail.startswith("no answer in 6 s")
    child = Path("/proc", (tmp_path / "child").read_text(), "cmdline")
    while child.exists() and child.read_bytes():  # until the system has ended it
        assert time.monotonic() - begin < 60
        time.sleep(0.05)


def test_all_together_take_a_bounded_time_whatever_hangs() -> None:
    limits = [[check.timeout_seconds for check in CHECKS if check.exclusive is alone] for alone in (True, False)]
    assert sum(limits[0]) + max(limits[1]) <= 23
