"""A checkpoint is whole or not there, whatever the moment of a crash."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.checkpoints import COMPLETE, Checkpoints


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def save(checkpoints: Checkpoints, step: int) -> Path:
    checkpoints.begin(step)
    aside = checkpoints.aside(step)
    (aside / "trainable").mkdir()
    save_file({"step": torch.tensor([float(step)])}, aside / "trainable" / "domain_encoder.safetensors")
    (aside / "state.json").write_text("{}")
    return checkpoints.commit(step)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_without_checkpoints_has_no_newest(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None


def test_a_committed_checkpoint_holds_what_was_written(checkpoints: Checkpoints) -> None:
    path = save(checkpoints, 1000)
    assert path == checkpoints.newest() == checkpoints.folder / "step_00001000"
    assert load_file(path / "trainable" / "domain_encoder.safetensors")["step"].item() == 1000
    assert (path / COMPLETE).exists()
    assert names(checkpoints.folder) == ["step_00001000"]


def test_the_newest_two_are_kept(checkpoints: Checkpoints) -> None:
    for step in (5, 10, 15, 20):
        save(checkpoints, step)
    assert names(checkpoints.folder) == ["step_00000015", "step_00000020"]
    assert checkpoints.newest() == checkpoints.folder / "step_00000020"


def test_every_kth_step_is_kept_for_good(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1, keep_every=10)
    for step in (5, 10, 15, 20, 25):
        save(checkpoints, step)
    assert names(tmp_path) == ["step_00000010", "step_00000020", "step_00000025"]


def test_an_interrupted_save_is_never_taken_up(checkpoints: Checkpoints) -> None:
    save(checkpoints, 10)
    checkpoints.begin(20)
    (checkpoints.aside(20) / "half").write_text("half")
    assert checkpoints.newest() == checkpoints.folder / "step_00000010"


def test_the_next_save_removes_what_an_interrupted_one_left(checkpoints: Checkpoints) -> None:
    checkpoints.begin(20)
    (checkpoints.aside(20) / "half").write_text("half")
    save(checkpoints, 30)
    assert names(checkpoints.folder) == ["step_00000030"]


def test_a_removal_that_was_interrupted_is_finished_by_the_next_save(checkpoints: Checkpoints) -> None:
    save(checkpoints, 10)
    (checkpoints.folder / "step_00000010").rename(checkpoints.folder / ".step_00000010.removed.partial")
    assert checkpoints.newest() is None
    save(checkpoints, 20)
    assert names(checkpoints.folder) == ["step_00000020"]


def test_a_folder_without_the_marker_is_not_a_checkpoint(checkpoints: Checkpoints) -> None:
    save(checkpoints, 10)
    (checkpoints.folder / "step_00000020").mkdir()
    assert checkpoints.newest() == checkpoints.folder / "step_00000010"


def test_something_else_in_the_folder_is_not_a_checkpoint(checkpoints: Checkpoints) -> None:
    save(checkpoints, 10)
    (checkpoints.folder / "step_best").mkdir()
    (checkpoints.folder / "step_best" / COMPLETE).touch()
    assert checkpoints.complete() == [checkpoints.folder / "step_00000010"]


def test_saving_a_step_again_replaces_it(checkpoints: Checkpoints) -> None:
    save(checkpoints, 10)
    (checkpoints.folder / "step_00000010" / "old").touch()
    save(checkpoints, 10)
    assert names(checkpoints.folder / "step_00000010") == [COMPLETE, "state.json", "trainable"]
    assert names(checkpoints.folder) == ["step_00000010"]
