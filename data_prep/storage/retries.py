"""What retrying readers share: pauses between attempts, and a time limit for calls that have none of their own."""

import random
import threading
from collections.abc import Callable
from typing import TypeVar

import tenacity

MAX_BACKOFF_SECONDS = 60.0
"""Longest pause between two attempts, unless a server asks for a longer one."""
Result = TypeVar("Result")


def backoff_with_jitter(seconds: float) -> Callable[[tenacity.RetryCallState], float]:
    """Return the pauses for tenacity: they start at ``seconds``, double each time and vary at random by a quarter."""
    backoff = tenacity.wait_exponential(multiplier=seconds, max=MAX_BACKOFF_SECONDS)
    # Jitter, so that the ranks of a job do not retry at the same moment.
    return lambda state: backoff(state) * random.uniform(0.75, 1.25)


def call_with_timeout(seconds: float, attempt: Callable[[], Result]) -> Result:
    """Call ``attempt`` in a thread. Raises TimeoutError if it takes longer; the thread is then abandoned."""
    results: list[Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(attempt())
        except Exception as error:
            errors.append(error)

    # A daemon thread, because one that hangs must not keep the process from exiting.
    thread = threading.Thread(target=run, daemon=True, name="store-read")
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    raise errors[0] if errors else TimeoutError(f"no answer in {seconds:g} s")


def one_line(error: BaseException | None) -> str:
    """Return the message of an error on one line, or its type if there is none."""
    return " ".join(str(error).split()) or type(error).__name__
