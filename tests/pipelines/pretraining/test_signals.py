"""Real signals to this process: noted, never in the way, and the same answer on every rank."""

import os
import signal

import pytest

from e4t import ConfigError
from pipelines.pretraining.signals import StopSignalHandler

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR2")


def alone(number: int) -> int:
    """The only rank agrees with itself."""
    return number


def raise_in_this_process(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])


def test_without_a_signal_nobody_stops() -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        assert stopper.should_stop(alone) == ""


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_interrupts_nothing_and_is_the_reason_to_stop(name: str) -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        raise_in_this_process(name)
        assert stopper.should_stop(alone) == name


def test_a_signal_is_remembered_until_somebody_asks_and_after() -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        raise_in_this_process("SIGUSR2")
        assert [stopper.should_stop(alone) for _ in range(3)] == ["SIGUSR2"] * 3


def test_the_handlers_are_put_back() -> None:
    before = [signal.getsignal(signal.Signals[name]) for name in SIGNALS]
    with StopSignalHandler(SIGNALS):
        assert [signal.getsignal(signal.Signals[name]) for name in SIGNALS] != before
    assert [signal.getsignal(signal.Signals[name]) for name in SIGNALS] == before


def test_the_handlers_are_put_back_after_an_error() -> None:
    before = [signal.getsignal(signal.Signals[name]) for name in SIGNALS]
    with pytest.raises(ZeroDivisionError), StopSignalHandler(SIGNALS):
        _ = 1 / 0
    assert [signal.getsignal(signal.Signals[name]) for name in SIGNALS] == before


def test_a_signal_that_is_named_twice_is_put_back_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignalHandler(("SIGTERM", "SIGINT", "SIGTERM")):
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_no_time_left_is_a_reason_to_stop() -> None:
    with StopSignalHandler(SIGNALS, max_minutes=0) as stopper:
        assert stopper.should_stop(alone) == "time is up"


def test_time_left_is_none() -> None:
    with StopSignalHandler(SIGNALS, max_minutes=60) as stopper:
        assert stopper.should_stop(alone) == ""


def test_a_signal_to_another_rank_stops_this_one() -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        assert stopper.should_stop(lambda mine: max(mine, signal.SIGUSR2)) == "SIGUSR2"


def test_every_rank_gives_the_reason_that_all_agree_on() -> None:
    with StopSignalHandler(SIGNALS) as stopper, StopSignalHandler(SIGNALS, max_minutes=0) as late:
        raise_in_this_process("SIGTERM")  # to the newest listener only
        answers: list[int] = []
        for each in (stopper, late):
            each.should_stop(lambda mine: answers.append(mine) or mine)
        assert answers == [0, signal.SIGTERM]
        assert {each.should_stop(lambda _: max(answers)) for each in (stopper, late)} == {"SIGTERM"}


def test_the_time_of_another_rank_outweighs_a_signal_to_this_one() -> None:
    with StopSignalHandler((), max_minutes=0) as late, StopSignalHandler(SIGNALS) as stopper:
        raise_in_this_process("SIGUSR2")
        numbers: list[int] = []
        late.should_stop(lambda mine: numbers.append(mine) or mine)
        assert stopper.should_stop(lambda mine: max(mine, *numbers)) == "time is up"


def test_a_second_interrupt_from_the_terminal_interrupts_at_once() -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        raise_in_this_process("SIGINT")
        with pytest.raises(KeyboardInterrupt):
            raise_in_this_process("SIGINT")
        assert stopper.should_stop(alone) == "SIGINT"


def test_a_second_signal_of_another_kind_does_not() -> None:
    with StopSignalHandler(SIGNALS) as stopper:
        for name in ("SIGUSR2", "SIGUSR2", "SIGTERM"):
            raise_in_this_process(name)
        assert stopper.should_stop(alone) == "SIGTERM"


@pytest.mark.parametrize("name", ["SIGNAL", "sigterm", "15", "", "SIG_DFL", "SIGKILL", "SIGSTOP"])
def test_a_name_that_nobody_can_listen_for_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.stop_signal .* give one like SIGUSR2"):
        StopSignalHandler(("SIGTERM", name))
