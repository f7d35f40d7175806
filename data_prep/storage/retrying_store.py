"""Retry reads that fail or hang, with exponential backoff."""

import logging
from collections.abc import Callable
from typing import cast

import tenacity

from data_prep.config import DataLoaderConfig
from data_prep.storage.retries import Result, backoff_with_jitter, call_with_timeout, one_line
from data_prep.storage.store import Store

log = logging.getLogger(__name__)
NON_RETRYABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors of a local disk that retrying cannot fix. From a remote store they may be temporary."""


class RetryingStore(Store):
    """A store whose reads are retried as ``stream.retries`` says. Reads of a remote store also have a timeout."""

    def __init__(self, url: str, config: DataLoaderConfig) -> None:
        super().__init__(url)
        self._config = config
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(config.retries + 1),
            wait=backoff_with_jitter(config.backoff_seconds),
            retry=tenacity.retry_if_exception(self._is_retryable),
            before_sleep=self._log_retry,
        )

    def read(self, name: str) -> bytes:
        """Read a whole file. Raises FileNotFoundError or another OSError if every attempt fails."""
        return self.with_retries(name, lambda: super(RetryingStore, self).read(name))

    def listdir(self, folder: str) -> list[str]:
        """List the names in a folder, sorted; empty if it does not exist. Raises OSError if every attempt fails."""
        return self.with_retries(folder, lambda: super(RetryingStore, self).listdir(folder))

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Read exactly ``size`` bytes from an offset. Raises as ``read`` does, and OSError for a short read."""

        def attempt() -> bytes:
            data = bytes(self.fs.cat_file(self._path(name), start=offset, end=offset + size))
            if len(data) > size:  # some servers ignore ranges and send the whole file
                data = data[offset : offset + size]
            if len(data) < size:
                raise OSError(f"short read: {len(data)} of {size} bytes")
            return data

        return self.with_retries(name, attempt)

    def with_retries(self, name: str, attempt: Callable[[], Result]) -> Result:
        """Call ``attempt`` until it succeeds. Raises FileNotFoundError or another OSError if every attempt fails."""
        try:  # without tenacity, whose bookkeeping takes longer than the read of a small image
            return self._attempt(name, attempt)
        except Exception as error:
            failed = [error]

        def attempt_again() -> Result:
            if failed:  # the attempt above, which counts as the first one
                raise failed.pop()
            return attempt()

        try:
            return cast("Result", self._retrying(self._attempt, name, attempt_again))
        except tenacity.RetryError as error:
            last = error.last_attempt.exception()
            error_type = FileNotFoundError if isinstance(last, FileNotFoundError) else OSError
            raise error_type(f"{one_line(last)}; tried {error.last_attempt.attempt_number} times") from last

    def _attempt(self, _name: str, attempt: Callable[[], Result]) -> Result:
        return attempt() if self.is_local else call_with_timeout(self._config.timeout_seconds, attempt)

    def _is_retryable(self, error: BaseException) -> bool:
        if self.is_local:
            return isinstance(error, OSError) and not isinstance(error, NON_RETRYABLE)
        return isinstance(error, Exception)  # remote stores have exceptions of their own

    def _log_retry(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("%s: %s; retrying in %.1f s", self.url_of(state.args[0]), one_line(error), state.upcoming_sleep)
