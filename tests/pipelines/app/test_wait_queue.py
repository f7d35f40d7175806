import threading
from contextlib import ExitStack

import pytest

from pipelines.app.wait_queue import WaitQueue
from pipelines.errors import RunError


def test_tickets_are_served_first_in_first_out() -> None:
    queue = WaitQueue(max_waiting=2)
    with queue.ticket() as first, queue.ticket() as second, queue.ticket() as third:
        assert [ticket.num_ahead() for ticket in (first, second, third)] == [0, 1, 2]


def test_leaving_the_queue_advances_the_tickets_behind() -> None:
    queue = WaitQueue(max_waiting=2)
    with ExitStack() as gone, queue.ticket() as first:
        middle = queue.ticket()
        gone.enter_context(middle)
        with queue.ticket() as last:
            middle.__exit__(None, None, None)
            gone.pop_all()
            assert (first.num_ahead(), last.num_ahead()) == (0, 1)


def test_a_full_queue_is_refused() -> None:
    queue = WaitQueue(max_waiting=1)
    with queue.ticket(), queue.ticket(), pytest.raises(RunError, match="try again in a minute"), queue.ticket():
        pass


def test_a_waiting_ticket_is_woken_when_the_queue_moves() -> None:
    queue, woken = WaitQueue(max_waiting=1), threading.Event()

    def wait() -> None:
        with queue.ticket() as ticket:
            waiting.set()
            ticket.wait(60)
            woken.set()

    waiting = threading.Event()
    with queue.ticket():
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert waiting.wait(10)
    assert woken.wait(10)
