"""Steps are judged one behind the newest; too many skipped in a row end the run, a jump of the loss is told."""

import pytest
import torch

from pipelines.errors import RunError
from pipelines.pretraining.step_monitor import MIN_HISTORY, StepMonitor, StepRecord, StepResult

NAN = float("nan")


class Listener:
    """A guard, and what it has told."""

    def __init__(self, skips_allowed: int = 3, spike_factor: float = 10.0) -> None:
        self.told: list[StepResult] = []
        self.guard = StepMonitor(skips_allowed, spike_factor, self.told.append)
        self.number = 0

    def after(self, loss: float) -> None:
        """The next step, skipped if its loss is not finite."""
        self.number += 1
        step = StepRecord(self.number, 8 * self.number, [f"{self.number:06d}"])
        skipped = torch.tensor(float(loss != loss))
        self.guard.record(step, torch.tensor([loss, loss / 2, loss / 4]), skipped)

    @property
    def jumps(self) -> list[int]:
        return [judged.step.number for judged in self.told if judged.is_spike]


def wavy(number: int) -> float:
    """An ordinary loss around 1."""
    return 1 + 0.01 * (number * 7 % 5 - 2)


def test_a_step_is_judged_when_the_next_has_been_made() -> None:
    listener = Listener()
    listener.after(1.0)
    assert listener.told == []
    listener.after(0.5)
    assert [judged.step.number for judged in listener.told] == [1]


def test_the_last_step_is_judged_at_the_end() -> None:
    listener = Listener()
    listener.after(1.0)
    listener.guard.flush()
    assert [judged.step.number for judged in listener.told] == [1]


def test_every_step_is_told_once_and_in_order_with_its_own_numbers() -> None:
    listener = Listener()
    for number in range(1, 8):
        listener.after(1.0 if number != 4 else NAN)
    listener.guard.flush()
    listener.guard.flush()
    assert [judged.step.number for judged in listener.told] == list(range(1, 8))
    assert [judged.step.keys for judged in listener.told] == [[f"{number:06d}"] for number in range(1, 8)]
    assert [judged.skipped for judged in listener.told] == [number == 4 for number in range(1, 8)]
    assert listener.told[0].losses == [1.0, 0.5, 0.25]


def test_as_many_skips_in_a_row_as_a_run_survives_end_it() -> None:
    listener = Listener(skips_allowed=3)
    listener.after(1.0)
    for _ in range(3):
        listener.after(NAN)
    with pytest.raises(RunError, match="3 steps in a row, up to step 4,"):
        listener.guard.flush()


def test_the_step_that_ends_a_run_has_been_told_before() -> None:
    listener = Listener(skips_allowed=1)
    listener.after(NAN)
    with pytest.raises(RunError):
        listener.guard.flush()
    assert [judged.skipped for judged in listener.told] == [True]


def test_a_good_step_between_skipped_ones_lets_the_run_go_on() -> None:
    listener = Listener(skips_allowed=3)
    for loss in (NAN, NAN, 1.0, NAN, NAN, 1.0):
        listener.after(loss)
    listener.guard.flush()
    assert listener.guard.num_skipped == 4


def test_a_jump_is_told_when_enough_is_known() -> None:
    listener = Listener()
    for number in range(MIN_HISTORY):
        listener.after(wavy(number))
    listener.after(5.0)
    listener.guard.flush()
    assert listener.jumps == [MIN_HISTORY + 1]


def test_a_jump_is_not_told_before_enough_is_known() -> None:
    listener = Listener()
    for number in range(MIN_HISTORY - 1):
        listener.after(wavy(number))
    listener.after(5.0)
    listener.guard.flush()
    assert listener.jumps == []


def test_an_ordinary_loss_is_no_jump() -> None:
    listener = Listener()
    for number in range(4 * MIN_HISTORY):
        listener.after(wavy(number))
    assert listener.jumps == []


def test_a_loss_that_falls_is_no_jump() -> None:
    listener = Listener()
    for number in range(MIN_HISTORY):
        listener.after(wavy(number))
    listener.after(0.001)
    listener.guard.flush()
    assert listener.jumps == []


def test_a_loss_that_never_moved_may_move_a_little() -> None:
    listener = Listener()
    for _ in range(MIN_HISTORY):
        listener.after(1.0)
    listener.after(1.005)
    listener.guard.flush()
    assert listener.jumps == []


def test_a_skipped_step_is_no_jump_and_no_history() -> None:
    listener = Listener(skips_allowed=99)
    for number in range(MIN_HISTORY - 1):
        listener.after(wavy(number))
    listener.after(NAN)
    listener.after(5.0)
    listener.guard.flush()
    assert listener.jumps == []
