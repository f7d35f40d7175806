"""The audit counts lost and repeated samples, and compares weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.faults.audit import Samples, audit, distance, same_weights
from data_prep.stream.shuffle import GlobalOrder

STEPS, BATCH = 4, 4
Line = tuple[int, int, int, str]


@pytest.fixture
def order() -> GlobalOrder:
    """Return an order of ten samples; four batches end in the second epoch."""
    return GlobalOrder([3, 3, 4], seed=0, window_shards=2)


def write(logs: Path, rank: int, *lines: Line) -> None:
    keys = ("step", "start", "count", "attempt")
    text = "".join(json.dumps(dict(zip(keys, line, strict=True))) + "\n" for line in lines)
    (logs / f"rank_{rank}.jsonl").write_text(text)


def slices(rank: int, steps: range, attempt: str) -> list[Line]:
    """Return the lines of one of two ranks."""
    return [(step, (step - 1) * BATCH + 2 * rank, 2, attempt) for step in steps]


def audit_run(logs: Path, order: GlobalOrder) -> Samples:
    return audit(logs, order, steps=STEPS, batch=BATCH)


def test_using_each_position_once_loses_and_repeats_nothing(tmp_path: Path, order: GlobalOrder) -> None:
    for rank in range(2):
        write(tmp_path, rank, *slices(rank, range(1, 5), "a"))
    assert audit_run(tmp_path, order) == Samples(lost=0, repeated=0)


def test_only_the_last_attempt_of_a_repeated_step_counts(tmp_path: Path, order: GlobalOrder) -> None:
    for rank in range(2):
        write(tmp_path, rank, *slices(rank, range(1, 4), "a"), *slices(rank, range(3, 5), "b"))
    assert audit_run(tmp_path, order) == Samples(lost=0, repeated=0)


def test_samples_of_a_rank_that_was_removed_are_not_lost(tmp_path: Path, order: GlobalOrder) -> None:
    write(tmp_path, 0, *slices(0, range(1, 4), "a"), (3, 8, 4, "b"), (4, 12, 4, "b"))
    write(tmp_path, 1, *slices(1, range(1, 4), "a"))
    assert audit_run(tmp_path, order) == Samples(lost=0, repeated=0)


def test_a_step_that_only_a_killed_rank_recorded_does_not_count(tmp_path: Path, order: GlobalOrder) -> None:
    write(tmp_path, 0, *slices(0, range(1, 3), "a"), *slices(0, range(3, 5), "b"))
    write(tmp_path, 1, *slices(1, range(1, 4), "a"), *slices(1, range(3, 5), "b"))
    assert audit_run(tmp_path, order) == Samples(lost=0, repeated=0)


def test_a_slice_that_no_rank_used_is_lost(tmp_path: Path, order: GlobalOrder) -> None:
    write(tmp_path, 0, *slices(0, range(1, 5), "a"))
    write(tmp_path, 1, *slices(1, range(1, 4), "a"))
    assert audit_run(tmp_path, order) == Samples(lost=2, repeated=0)


def test_a_slice_that_two_ranks_used_is_repeated(tmp_path: Path, order: GlobalOrder) -> None:
    write(tmp_path, 0, *slices(0, range(1, 5), "a"))
    write(tmp_path, 1, *slices(1, range(1, 4), "a"), (4, 12, 4, "a"))
    assert audit_run(tmp_path, order) == Samples(lost=0, repeated=2)


def test_an_incomplete_line_does_not_hide_the_next_one(tmp_path: Path, order: GlobalOrder) -> None:
    for rank in range(2):
        write(tmp_path, rank, *slices(rank, range(1, 5), "a"))
    path = tmp_path / "rank_0.jsonl"
    path.write_text('{"step": 1, "st' + path.read_text())
    assert audit_run(tmp_path, order) == Samples(lost=0, repeated=0)


def test_weights_are_the_same_if_the_bytes_are(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert same_weights(tmp_path, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    save_file({"a": torch.tensor([1.0, 1.0, 1.0 + 1e-7])}, other / "a.safetensors")
    assert not same_weights(tmp_path, other)


def test_folders_without_weights_are_not_the_same(tmp_path: Path) -> None:
    assert not same_weights(tmp_path, tmp_path)


def test_the_distance_is_relative_and_covers_all_files(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, value in ((here, 2.0), (there, 1.0)):
        folder.mkdir()
        save_file({"a": torch.full((2,), value)}, folder / "a.safetensors")
        save_file({"b": torch.full((2,), 1.0)}, folder / "b.safetensors")
    assert distance(here, there) == pytest.approx(0.5**0.5)
    assert distance(there, there) == 0.0
