import threading
from contextlib import ExitStack

import pytest

from pipelines.app.wait_queue import WaitQueue
from pipelines.errors import RunError


def test_places_are_in_the_order_of_coming() -> None:
    turns = WaitQueue(max_waiting=2)
    with turns.ticket() as first, turns.ticket() as second, turns.ticket() as third:
        assert [place.num_ahead() for place in (first, second, third)] == [0, 1, 2]


def test_a_place_given_back_moves_those_behind() -> None:
    turns = WaitQueue(max_waiting=2)
    with ExitStack() as gone, turns.ticket() as first:
        middle = turns.ticket()
        gone.enter_context(middle)
        with turns.ticket() as last:
            middle.__exit__(None, None, None)
            gone.pop_all()
            assert (first.num_ahead(), last.num_ahead()) == (0, 1)


def test_a_full_line_is_refused() -> None:
    turns = WaitQueue(max_waiting=1)
    with turns.ticket(), turns.ticket(), pytest.raises(RunError, match="try again in a minute"), turns.ticket():
        pass


def test_who_waits_is_woken_when_the_line_moves() -> None:
    turns, told = WaitQueue(max_waiting=1), threading.Event()

    def wait() -> None:
        with turns.ticket() as place:
            waiting.set()
            place.wait(60)
            told.set()

    waiting = threading.Event()
    with turns.ticket():
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert waiting.wait(10)
    assert told.wait(10)
