"""Repeat reads of a source that fail for reasons that may pass."""

import logging
from collections.abc import Callable
from functools import lru_cache

import tenacity

from data_prep.config import ReadConfig
from data_prep.errors import DataError, SampleRejected
from data_prep.sources.files.failures import ReadFailed, failure_of
from data_prep.storage.retries import Result, backoff_with_jitter
from e4t_errors import ConfigError

log = logging.getLogger(__name__)
MAX_RETRY_AFTER_SECONDS = 300.0
"""Longest pause in seconds that a server's ``Retry-After`` may ask for."""


def with_retries(config: ReadConfig, label: object, attempt: Callable[[], Result]) -> Result:
    """Call ``attempt`` until it succeeds, at most ``config.retries + 1`` times.

    Raises ReadFailed for the last failure. SampleRejected, DataError and ConfigError are passed on at once, other
    exceptions are classified by ``failure_of``.
    """
    tries = 0

    def classified(_label: object) -> Result:
        nonlocal tries
        tries += 1
        try:
            return attempt()
        except (SampleRejected, DataError, ConfigError):
            raise
        except Exception as error:  # stores have exceptions of their own, without a common base class
            raise failure_of(error) from error

    try:
        return _retrying(config)(classified, label)
    except ReadFailed as failure:
        if tries > 1:
            failure.cause += f"; tried {tries} times"
        raise


@lru_cache(maxsize=8)
def _retrying(config: ReadConfig) -> tenacity.Retrying:
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(config.retries + 1),
        wait=_pauses(config.backoff_seconds),
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, ReadFailed) and error.repeat),
        before_sleep=_log_retry,
        reraise=True,
    )


def _pauses(backoff_seconds: float) -> Callable[[tenacity.RetryCallState], float]:
    backoff = backoff_with_jitter(backoff_seconds)

    def pause(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, ReadFailed) else 0.0
        return max(backoff(state), min(asked, MAX_RETRY_AFTER_SECONDS))

    return pause


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.info("%s: %s; retrying in %.1f s", state.args[0], error, state.upcoming_sleep)
