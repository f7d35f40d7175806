"""A checkpoint is complete or absent, whenever the process crashes and whatever error the disk returns."""

import errno
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.storage.atomic import sha256_file
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints.manager import COMPLETE, CheckpointManager

ROOT = Path(__file__).parents[4]
WEIGHTS = Path("trainable") / "domain_encoder.safetensors"


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path / "checkpoints", keep_last=2)


def fill(folder: Path) -> None:
    (folder / WEIGHTS.parent).mkdir()
    save_file({"numbers": torch.arange(1000.0)}, folder / WEIGHTS)
    (folder / "state.json").write_text("{}")


def saved(checkpoints: CheckpointManager, *steps: int) -> Path:
    """Save checkpoints of these steps; returns the folder of the last one."""
    for step in steps:
        checkpoints.save(step, fill)
    checkpoints.wait()
    return checkpoints.folder / f"step_{steps[-1]:08d}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_without_checkpoints_there_is_no_latest(checkpoints: CheckpointManager) -> None:
    assert checkpoints.latest() is None


def test_a_checkpoint_holds_the_files_that_were_written(checkpoints: CheckpointManager) -> None:
    path = saved(checkpoints, 1000)
    assert path == checkpoints.latest() == checkpoints.folder / "step_00001000"
    assert torch.equal(load_file(path / WEIGHTS)["numbers"], torch.arange(1000.0))
    assert names(checkpoints.folder) == ["step_00001000"]


def test_the_complete_file_holds_the_digest_of_every_other_file(checkpoints: CheckpointManager) -> None:
    path = saved(checkpoints, 10)
    assert json.loads((path / COMPLETE).read_text()) == {
        str(WEIGHTS): sha256_file(path / WEIGHTS),
        "state.json": sha256_file(path / "state.json"),
    }


def test_training_continues_while_a_checkpoint_is_written(checkpoints: CheckpointManager) -> None:
    training_continued = threading.Event()

    def fill_slowly(folder: Path) -> None:
        assert training_continued.wait(60)
        fill(folder)

    checkpoints.save(10, fill_slowly)
    assert checkpoints.latest() is None
    training_continued.set()
    checkpoints.wait()
    assert checkpoints.latest() == checkpoints.folder / "step_00000010"


def test_the_latest_checkpoints_are_kept(checkpoints: CheckpointManager) -> None:
    newest = saved(checkpoints, 5, 10, 15, 20)
    assert names(checkpoints.folder) == ["step_00000015", "step_00000020"]
    assert checkpoints.latest() == newest


def test_checkpoints_of_multiples_of_keep_every_are_kept(tmp_path: Path) -> None:
    saved(CheckpointManager(tmp_path, keep_last=1, keep_every=10), 5, 10, 15, 20, 25)
    assert names(tmp_path) == ["step_00000010", "step_00000020", "step_00000025"]


@pytest.mark.parametrize("file", [str(WEIGHTS), "state.json"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    checkpoints: CheckpointManager, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    newest = saved(checkpoints, 10, 20)
    content = (newest / file).read_bytes()
    (newest / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert checkpoints.latest() == checkpoints.folder / "step_00000010"
    assert len(warnings_in(caplog)) == 1
    assert f"{newest} is damaged (sha256 of {file} differs)" in warnings_in(caplog)[0]


def test_a_checkpoint_with_a_missing_file_is_skipped(checkpoints: CheckpointManager) -> None:
    (saved(checkpoints, 10, 20) / WEIGHTS).unlink()
    assert checkpoints.latest() == checkpoints.folder / "step_00000010"


@pytest.mark.parametrize("marker", [b"", b"[]", b"\xff", b"{"])
def test_a_checkpoint_with_an_invalid_complete_file_is_skipped(checkpoints: CheckpointManager, marker: bytes) -> None:
    (saved(checkpoints, 10, 20) / COMPLETE).write_bytes(marker)
    assert checkpoints.latest() == checkpoints.folder / "step_00000010"


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_checkpoints_do_not_count_towards_keep_last(tmp_path: Path, keep: int) -> None:
    checkpoints = CheckpointManager(tmp_path, keep)
    for step in (20, 30):
        (saved(CheckpointManager(tmp_path, keep_last=9), step) / "state.json").unlink()
    assert saved(checkpoints, 15) == checkpoints.latest()
    assert saved(checkpoints, 20) == checkpoints.latest()


def test_an_interrupted_save_is_never_resumed_from(checkpoints: CheckpointManager) -> None:
    saved(checkpoints, 10)
    shutil.copytree(checkpoints.folder / "step_00000010", checkpoints.folder / ".step_00000020.partial")
    assert checkpoints.latest() == checkpoints.folder / "step_00000010"


def test_the_next_save_removes_the_files_of_an_interrupted_one(checkpoints: CheckpointManager) -> None:
    (checkpoints.folder / ".step_00000020.partial").mkdir(parents=True)
    (checkpoints.folder / ".step_00000020.partial" / "half").write_text("half")
    saved(checkpoints, 30)
    assert names(checkpoints.folder) == ["step_00000030"]


def test_the_next_save_finishes_an_interrupted_removal(checkpoints: CheckpointManager) -> None:
    saved(checkpoints, 10).rename(checkpoints.folder / ".step_00000010.removed.partial")
    assert checkpoints.latest() is None
    saved(checkpoints, 20)
    assert names(checkpoints.folder) == ["step_00000020"]


def test_a_folder_without_the_complete_file_is_not_a_checkpoint(checkpoints: CheckpointManager) -> None:
    saved(checkpoints, 10)
    (checkpoints.folder / "step_00000020").mkdir()
    assert checkpoints.latest() == checkpoints.folder / "step_00000010"


def test_a_folder_with_another_name_is_not_a_checkpoint(checkpoints: CheckpointManager) -> None:
    path = saved(checkpoints, 10)
    shutil.copytree(path, checkpoints.folder / "step_best")
    assert checkpoints.list_complete() == [path]


def test_saving_a_step_again_replaces_it(checkpoints: CheckpointManager) -> None:
    (saved(checkpoints, 10) / "old").touch()
    saved(checkpoints, 10)
    assert names(checkpoints.folder / "step_00000010") == [COMPLETE, "state.json", "trainable"]
    assert names(checkpoints.folder) == ["step_00000010"]


def fill_in_part_and_fail(folder: Path) -> None:
    (folder / "half").write_text("half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_wait_reports_a_failed_save_in_one_line(checkpoints: CheckpointManager) -> None:
    saved(checkpoints, 10)
    checkpoints.save(20, fill_in_part_and_fail)
    with pytest.raises(RunError) as caught:
        checkpoints.wait()
    assert "\n" not in str(caught.value)
    assert f"{checkpoints.folder} (No space left on device)" in str(caught.value)
    assert names(checkpoints.folder) == ["step_00000010"]


def test_the_next_save_reports_a_failed_one_first(checkpoints: CheckpointManager) -> None:
    checkpoints.save(20, fill_in_part_and_fail)
    with pytest.raises(RunError, match="No space left"):
        checkpoints.save(30, fill)
    checkpoints.wait()
    assert checkpoints.list_complete() == []


def test_a_failed_save_is_reported_once(checkpoints: CheckpointManager) -> None:
    checkpoints.save(20, fill_in_part_and_fail)
    with pytest.raises(RunError):
        checkpoints.wait()
    assert saved(checkpoints, 30) == checkpoints.latest()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if not mount or not umount or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    command = [mount, "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:  # noqa: S603 - a system program
        pytest.skip("this sandbox does not allow mounting")
    yield folder
    subprocess.run([umount, str(folder)], check=True)  # noqa: S603 - a system program


def test_a_full_disk_leaves_only_the_previous_checkpoint(tiny_disk: Path) -> None:
    checkpoints = CheckpointManager(tiny_disk / "checkpoints", keep_last=2)
    before = saved(checkpoints, 10)

    def fill_the_disk(folder: Path) -> None:
        save_file({"numbers": torch.zeros(100_000)}, folder / "model.safetensors")

    checkpoints.save(20, fill_the_disk)
    with pytest.raises(RunError, match="No space left on device"):
        checkpoints.wait()
    assert names(checkpoints.folder) == ["step_00000010"]
    assert checkpoints.latest() == before


SAVE_REPEATEDLY = """
import sys
from pathlib import Path
from pipelines.pretraining.checkpoints.manager import CheckpointManager

def fill(folder):
    (folder / "trainable").mkdir()
    for name in range(8):
        (folder / "trainable" / str(name)).write_bytes(bytes(200_000))

checkpoints = CheckpointManager(Path(sys.argv[1]), keep_last=2)
latest = checkpoints.latest()
step = int(latest.name[5:]) if latest else 0
print("ready", flush=True)
while True:
    step += 1
    checkpoints.save(step, fill)
"""


def test_a_process_killed_during_saves_leaves_only_complete_checkpoints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng, reached = random.Random(1), 0
    checkpoints = CheckpointManager(tmp_path / "checkpoints", keep_last=2)
    interrupted = 0
    for _ in range(12):
        command = [sys.executable, "-c", SAVE_REPEATEDLY, str(checkpoints.folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:  # noqa: S603 - our own command
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.05, 0.5))  # any moment will do
            process.send_signal(signal.SIGKILL)
        interrupted += any(checkpoints.folder.glob(".*"))
        complete = checkpoints.list_complete()
        assert all(len(names(path / "trainable")) == 8 for path in complete)
        newest = checkpoints.latest()
        assert newest == (complete[-1] if complete else None)
        step = int(newest.name.removeprefix("step_")) if newest else 0
        assert step >= reached
        reached = step
    assert warnings_in(caplog) == []
    assert reached > 0
    assert interrupted > 0, "no process was killed during a save"
