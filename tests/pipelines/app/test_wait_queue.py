import threading
from contextlib import ExitStack

import pytest

from pipelines.app.wait_queue import Turns
from pipelines.errors import RunError


def test_places_are_in_the_order_of_coming() -> None:
    turns = Turns(waiting=2)
    with turns.place() as first, turns.place() as second, turns.place() as third:
        assert [place.before() for place in (first, second, third)] == [0, 1, 2]


def test_a_place_given_back_moves_those_behind() -> None:
    turns = Turns(waiting=2)
    with ExitStack() as gone, turns.place() as first:
        middle = turns.place()
        gone.enter_context(middle)
        with turns.place() as last:
            middle.__exit__(None, None, None)
            gone.pop_all()
            assert (first.before(), last.before()) == (0, 1)


def test_a_full_line_is_refused() -> None:
    turns = Turns(waiting=1)
    with turns.place(), turns.place(), pytest.raises(RunError, match="try again in a minute"), turns.place():
        pass


def test_who_waits_is_woken_when_the_line_moves() -> None:
    turns, told = Turns(waiting=1), threading.Event()

    def wait() -> None:
        with turns.place() as place:
            waiting.set()
            place.wait(60)
            told.set()

    waiting = threading.Event()
    with turns.place():
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert waiting.wait(10)
    assert told.wait(10)
