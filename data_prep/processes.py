"""Run a function in several processes of this machine. They end when this process ends, however it ends."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from data_prep.errors import DataError
from data_prep.interrupts import INTERRUPT_SIGNALS, Interrupted, SignalHandler, interrupt_exit_code

PollCallback = Callable[[], None]
"""Called repeatedly while the processes run."""
POLL_SECONDS = 0.5
"""Interval between two calls of the callback."""
TERMINATE_SECONDS = 5.0
"""Seconds from SIGTERM, at which a process removes its temporary files, to SIGKILL."""
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to all of its processes. The processes ignore them: this process ends them."""
_INTERRUPT_CODES = {code for number in INTERRUPT_SIGNALS for code in (-number, interrupt_exit_code(number))}
"""Exit codes of processes that a signal has ended."""


class ProcessDiedError(DataError):
    """A process has ended without a result: it was killed, or it crashed."""


def run_processes(
    function: Callable[..., None], arguments: Sequence[tuple[Any, ...]], on_poll: PollCallback = lambda: None
) -> None:
    """Call ``function(*each)`` for each of ``arguments`` in a process of its own, and wait for all of them.

    Raises what the first process raised, after the others have finished, and ProcessDiedError as soon as one has died.
    """
    # Not a process pool: a killed process can leave locks of its shared queues taken, on which the pool waits.
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, BaseProcess] = {}
    try:
        with starting_processes():
            for each in arguments:
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_process_main, args=(function, each, sender))
                process.start()
                sender.close()
                running[receiver] = process
        errors = list(_errors(running, on_poll))
    except BaseException:
        _end(list(running.values()))
        raise
    if errors:
        raise errors[0]


@contextmanager
def starting_processes() -> Iterator[None]:
    """Start processes in this block, which never get SIGINT and SIGHUP. A signal to this process waits for its end."""
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: handler for number in INTERRUPT_SIGNALS if is_main and (handler := signal.getsignal(number))}
    received: list[int] = []
    for number in handlers:
        signal.signal(number, lambda number, _: received.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)  # which new processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for each in received:
            signal.raise_signal(each)


def handle_signals_in_process() -> None:
    """Raise Interrupted in this process, which another one has started, at SIGTERM and when that process ends."""
    parent = multiprocessing.parent_process()
    SignalHandler(parent_pid=parent.pid if parent else None).install()


def _process_main(function: Callable[..., None], arguments: tuple[Any, ...], sender: Connection) -> None:
    """Call the function, and send the exception that it raised, or None."""
    handle_signals_in_process()
    raised: Exception | None = None
    try:
        try:
            function(*arguments)
        except Exception as error:
            error.add_note(f"In the process:\n{traceback.format_exc()}")
            raised = error
        with suppress(BrokenPipeError):  # the parent has been killed
            sender.send(raised)
    except Interrupted as error:
        os._exit(interrupt_exit_code(error.number))  # does not wait for threads that read


def _errors(running: dict[Connection, BaseProcess], on_poll: PollCallback) -> Iterator[Exception]:
    """Wait for all processes and yield what they raised. Raises ProcessDiedError if one has died."""
    waiting = set(running)
    while waiting:
        ready = wait(list(waiting), timeout=POLL_SECONDS)
        for receiver in [each for each in waiting if each in ready]:
            try:
                error: Exception | None = receiver.recv()
            except (EOFError, OSError):  # also in the middle of a message
                raise _death(running[receiver]) from None
            waiting.discard(receiver)
            running[receiver].join()
            if error is not None:
                yield error
        on_poll()


def _death(process: BaseProcess) -> ProcessDiedError:
    process.join(POLL_SECONDS)
    code = process.exitcode or 0
    if code in _INTERRUPT_CODES:
        time.sleep(POLL_SECONDS)  # a signal to all processes of a job may be about to arrive here, too
    reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return ProcessDiedError(f"a process died ({reason})")


def _end(processes: Sequence[BaseProcess]) -> None:
    """Ask the processes to clean up and end, and kill those that do not."""
    try:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + TERMINATE_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.join()
