"""Fetch whole shards in the background before they are needed."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)
NUM_THREADS = 4
"""Number of concurrent downloads; one connection rarely saturates the network."""


class Prefetcher:
    """Runs fetches in background threads, in order. Errors are ignored here: the reader that needs the file retries."""

    def __init__(self) -> None:
        self._queue = deque[Callable[[], None]]()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._open = True

    def submit(self, fetches: Iterable[Callable[[], None]]) -> None:
        """Run these fetches next; fetches of an earlier call that have not started are dropped."""
        with self._changed:
            self._queue = deque(fetches)
            self._changed.notify_all()
        if not self._threads:
            # Daemon threads: a store that hangs must not keep the process from exiting.
            self._threads = [
                threading.Thread(target=self._run, daemon=True, name=f"shard-fetch-{number}")
                for number in range(NUM_THREADS)
            ]
            for thread in self._threads:
                thread.start()

    def close(self) -> None:
        """Start no further fetches; running ones finish on their own."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or not self._open)
                if not self._open:
                    return
                fetch = self._queue.popleft()
            try:
                fetch()
            except Exception as error:
                log.debug("prefetch failed: %s", error)
