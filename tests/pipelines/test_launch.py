import os
from pathlib import Path

import pytest

from pipelines.launch import inside_cluster, launch


def test_a_ranks_exit_code_is_the_launchers(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(["prepare", "--recipe", "nope"], 2) == 78
    assert capfd.readouterr().err.count("e4t: ") == 1  # rank 0 speaks for all


def test_ranks_that_end_well_end_the_launch_well(tmp_path: Path) -> None:
    assert launch(["--help"], 2) == 0


def test_a_process_that_nobody_launched_is_not_in_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert not inside_cluster()
    monkeypatch.setitem(os.environ, "RANK", "0")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    assert inside_cluster()
