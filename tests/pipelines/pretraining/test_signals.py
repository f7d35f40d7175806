"""Signals and the time limit stop training after a step, for the same reason on every rank."""

import os
import signal

import pytest

from e4t_errors import ConfigError
from pipelines.pretraining import signals
from pipelines.pretraining.signals import StopSignalHandler

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR2")


def single_rank(number: int) -> int:
    """The reduction of a single rank."""
    return number


def send_to_this_process(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])


def test_without_a_signal_there_is_no_reason_to_stop() -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        assert stopper.should_stop(single_rank) == ""


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_interrupts_nothing_and_is_reported_as_the_reason(name: str) -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        send_to_this_process(name)
        assert stopper.should_stop(single_rank) == name


def test_a_signal_is_reported_every_time_it_is_asked_for() -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        send_to_this_process("SIGUSR2")
        assert [stopper.should_stop(single_rank) for _ in range(3)] == ["SIGUSR2"] * 3


def test_the_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(signal.Signals[name]) for name in SIGNALS]
    with StopSignalHandler(SIGNALS):
        assert [signal.getsignal(signal.Signals[name]) for name in SIGNALS] != before
    assert [signal.getsignal(signal.Signals[name]) for name in SIGNALS] == before


def test_the_previous_handlers_are_restored_after_an_error() -> None:
    before = [signal.getsignal(signal.Signals[name]) for name in SIGNALS]
    with pytest.raises(ZeroDivisionError), StopSignalHandler(SIGNALS):
        _ = 1 / 0
    assert [signal.getsignal(signal.Signals[name]) for name in SIGNALS] == before


def test_the_handler_of_a_signal_that_is_named_twice_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignalHandler(("SIGTERM", "SIGINT", "SIGTERM")):
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_reaching_the_time_limit_is_a_reason_to_stop() -> None:
    with StopSignalHandler(SIGNALS, max_minutes=0) as stopper:
        assert stopper.should_stop(single_rank) == "time limit reached"


def test_a_time_limit_in_the_future_is_no_reason_to_stop() -> None:
    with StopSignalHandler(SIGNALS, max_minutes=60) as stopper:
        assert stopper.should_stop(single_rank) == ""


def test_a_signal_to_another_rank_stops_this_one() -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        assert stopper.should_stop(lambda mine: max(mine, signal.SIGUSR2)) == "SIGUSR2"


def test_every_rank_reports_the_same_reason() -> None:
    with StopSignalHandler(SIGNALS) as stopper, StopSignalHandler(SIGNALS, max_minutes=0) as late:
        send_to_this_process("SIGTERM")  # only the handler that was installed last gets it
        answers: list[int] = []
        for each in (stopper, late):
            each.should_stop(lambda mine: answers.append(mine) or mine)
        assert answers == [0, signal.SIGTERM]
        assert {each.should_stop(lambda _: max(answers)) for each in (stopper, late)} == {"SIGTERM"}


def test_the_time_limit_of_another_rank_takes_precedence_over_a_signal() -> None:
    with StopSignalHandler((), max_minutes=0) as late, StopSignalHandler(SIGNALS) as stopper:
        send_to_this_process("SIGUSR2")
        numbers: list[int] = []
        late.should_stop(lambda mine: numbers.append(mine) or mine)
        assert stopper.should_stop(lambda mine: max(mine, *numbers)) == "time limit reached"


def test_ctrl_c_that_arrives_through_the_terminal_and_the_launcher_counts_once() -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        send_to_this_process("SIGINT")
        send_to_this_process("SIGINT")
        assert stopper.should_stop(single_rank) == "SIGINT"


def test_a_later_sigint_raises_keyboard_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.0)
    with StopSignalHandler(SIGNALS) as stopper:
        send_to_this_process("SIGINT")
        with pytest.raises(KeyboardInterrupt):
            send_to_this_process("SIGINT")
        assert stopper.should_stop(single_rank) == "SIGINT"


def test_a_second_signal_other_than_sigint_interrupts_nothing() -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        for name in ("SIGUSR2", "SIGUSR2", "SIGTERM"):
            send_to_this_process(name)
        assert stopper.should_stop(single_rank) == "SIGTERM"


@pytest.mark.parametrize("name", ["SIGNAL", "sigterm", "15", "", "SIG_DFL", "SIGKILL", "SIGSTOP"])
def test_a_signal_that_cannot_be_handled_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.stop_signal .* use SIGUSR2, for example"):
        StopSignalHandler(("SIGTERM", name))
