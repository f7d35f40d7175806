"""Reads that fail or hang, tried again with growing pauses."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from data_prep.config import DataLoaderConfig
from data_prep.storage.store import Store

log = logging.getLogger(__name__)
Result = TypeVar("Result")
MAX_BACKOFF_SECONDS = 60.0
NON_RETRYABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""What a disk says once it says for good; a store may mean that it is not ready yet."""


class RetryingStore(Store):
    """A store whose reads are tried again; one that is not on a disk here must also answer in time."""

    def __init__(self, url: str, config: DataLoaderConfig) -> None:
        super().__init__(url)
        self._config = config

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError or another OSError when every attempt has failed."""
        return self.with_retries(name, lambda: super(RetryingStore, self).read(name))

    def listdir(self, folder: str) -> list[str]:
        """Names of what is in a folder, sorted; none if it is not there. Raises OSError."""
        return self.with_retries(folder, lambda: super(RetryingStore, self).listdir(folder))

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """So many bytes of a file from an offset on. Raises as ``read`` does, and OSError if there are fewer."""

        def attempt() -> bytes:
            data = bytes(self.fs.cat_file(self._path(name), start=offset, end=offset + size))
            if len(data) > size:  # a server that knows no ranges sends the whole file
                data = data[offset : offset + size]
            if len(data) < size:
                raise OSError(f"short read: {len(data)} of {size} bytes")
            return data

        return self.with_retries(name, attempt)

    def with_retries(self, name: str, attempt: Callable[[], Result]) -> Result:
        """What the attempt returns once it succeeds. Raises FileNotFoundError or another OSError if it never does."""
        for retry in range(self._config.retries + 1):
            try:
                return attempt() if self.is_local else _with_timeout(self._config.timeout_seconds, attempt)
            except Exception as error:  # every kind of store has errors of its own
                if self.is_local and (not isinstance(error, OSError) or isinstance(error, NON_RETRYABLE)):
                    raise
                last = error
            if retry < self._config.retries:
                # Not all ranks at the same moment.
                pause = min(MAX_BACKOFF_SECONDS, self._config.backoff_seconds * 2**retry) * random.uniform(0.75, 1.25)
                log.warning("%s: %s; trying again in %.1f s", self.url_of(name), _one_line(last), pause)
                time.sleep(pause)
        error_type = FileNotFoundError if isinstance(last, FileNotFoundError) else OSError
        raise error_type(f"{_one_line(last)}; tried {self._config.retries + 1} times") from last


def _with_timeout(seconds: float, attempt: Callable[[], Result]) -> Result:
    """What the attempt returns. Raises TimeoutError, and leaves it alone, if it takes longer."""
    results: list[Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(attempt())
        except Exception as error:
            errors.append(error)

    # A daemon: one that hangs for good must not keep the process from ending.
    thread = threading.Thread(target=run, daemon=True, name="store-read")
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    raise errors[0] if errors else TimeoutError(f"no answer in {seconds:g} s")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
