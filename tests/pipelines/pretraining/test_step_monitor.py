"""StepMonitor reads steps one behind the newest, ends a run after too many skipped steps, and reports loss spikes."""

import pytest
import torch

from pipelines.errors import RunError
from pipelines.pretraining.step_monitor import MIN_HISTORY, StepMonitor, StepRecord, StepResult

NAN = float("nan")


class MonitoredRun:
    """A monitor, and the results that it has reported."""

    def __init__(self, max_consecutive_skips: int = 3, loss_spike_factor: float = 10.0) -> None:
        self.results: list[StepResult] = []
        self.monitor = StepMonitor(max_consecutive_skips, loss_spike_factor, self.results.append)
        self.number = 0

    def record(self, loss: float) -> None:
        """Record the next step, as skipped if its loss is not finite."""
        self.number += 1
        step = StepRecord(self.number, 8 * self.number, [f"{self.number:06d}"])
        skipped = torch.tensor(float(loss != loss))
        self.monitor.record(step, torch.tensor([loss, loss / 2, loss / 4]), skipped)

    @property
    def spikes(self) -> list[int]:
        return [result.step.number for result in self.results if result.is_spike]


def ordinary_loss(number: int) -> float:
    """A loss that varies a little around 1."""
    return 1 + 0.01 * (number * 7 % 5 - 2)


def test_a_step_is_read_when_the_next_one_is_recorded() -> None:
    run = MonitoredRun()
    run.record(1.0)
    assert run.results == []
    run.record(0.5)
    assert [result.step.number for result in run.results] == [1]


def test_flush_reads_the_last_step() -> None:
    run = MonitoredRun()
    run.record(1.0)
    run.monitor.flush()
    assert [result.step.number for result in run.results] == [1]


def test_every_step_is_reported_once_in_order_with_its_own_values() -> None:
    run = MonitoredRun()
    for number in range(1, 8):
        run.record(1.0 if number != 4 else NAN)
    run.monitor.flush()
    run.monitor.flush()
    assert [result.step.number for result in run.results] == list(range(1, 8))
    assert [result.step.keys for result in run.results] == [[f"{number:06d}"] for number in range(1, 8)]
    assert [result.skipped for result in run.results] == [number == 4 for number in range(1, 8)]
    assert run.results[0].losses == [1.0, 0.5, 0.25]


def test_max_consecutive_skips_end_the_run() -> None:
    run = MonitoredRun(max_consecutive_skips=3)
    run.record(1.0)
    for _ in range(3):
        run.record(NAN)
    with pytest.raises(RunError, match="3 steps in a row, up to step 4,"):
        run.monitor.flush()


def test_the_step_that_ends_a_run_is_reported_first() -> None:
    run = MonitoredRun(max_consecutive_skips=1)
    run.record(NAN)
    with pytest.raises(RunError):
        run.monitor.flush()
    assert [result.skipped for result in run.results] == [True]


def test_a_finite_step_resets_the_count_of_consecutive_skips() -> None:
    run = MonitoredRun(max_consecutive_skips=3)
    for loss in (NAN, NAN, 1.0, NAN, NAN, 1.0):
        run.record(loss)
    run.monitor.flush()
    assert run.monitor.num_skipped == 4


def test_a_spike_is_reported_once_the_history_is_long_enough() -> None:
    run = MonitoredRun()
    for number in range(MIN_HISTORY):
        run.record(ordinary_loss(number))
    run.record(5.0)
    run.monitor.flush()
    assert run.spikes == [MIN_HISTORY + 1]


def test_a_spike_is_not_reported_while_the_history_is_short() -> None:
    run = MonitoredRun()
    for number in range(MIN_HISTORY - 1):
        run.record(ordinary_loss(number))
    run.record(5.0)
    run.monitor.flush()
    assert run.spikes == []


def test_an_ordinary_loss_is_not_a_spike() -> None:
    run = MonitoredRun()
    for number in range(4 * MIN_HISTORY):
        run.record(ordinary_loss(number))
    assert run.spikes == []


def test_a_falling_loss_is_not_a_spike() -> None:
    run = MonitoredRun()
    for number in range(MIN_HISTORY):
        run.record(ordinary_loss(number))
    run.record(0.001)
    run.monitor.flush()
    assert run.spikes == []


def test_a_small_change_of_a_constant_loss_is_not_a_spike() -> None:
    run = MonitoredRun()
    for _ in range(MIN_HISTORY):
        run.record(1.0)
    run.record(1.005)
    run.monitor.flush()
    assert run.spikes == []


def test_a_skipped_step_is_neither_a_spike_nor_part_of_the_history() -> None:
    run = MonitoredRun(max_consecutive_skips=99)
    for number in range(MIN_HISTORY - 1):
        run.record(ordinary_loss(number))
    run.record(NAN)
    run.record(5.0)
    run.monitor.flush()
    assert run.spikes == []


def test_skips_of_earlier_attempts_are_counted() -> None:
    monitor = StepMonitor(3, 10.0, lambda _: None, num_skipped=5)
    monitor.record(StepRecord(1, 0, ["000000"]), torch.tensor([NAN, NAN, NAN]), torch.tensor(1.0))
    monitor.flush()
    assert monitor.num_skipped == 6
