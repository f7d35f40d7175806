"""Whole shards fetched before they are needed."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)
NUM_THREADS = 4
"""Shards that come at the same time: one connection to a store seldom fills the line."""


class Prefetcher:
    """Runs fetches in the background, in order. What fails is left to the reader that needs it: it knows what to do."""

    def __init__(self) -> None:
        self._queue = deque[Callable[[], None]]()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._open = True

    def submit(self, fetches: Iterable[Callable[[], None]]) -> None:
        """Fetch these next; those of an earlier call that have not begun are forgotten."""
        with self._changed:
            self._queue = deque(fetches)
            self._changed.notify_all()
        if not self._threads:
            # Daemons: a store that hangs must not keep a process from ending.
            self._threads = [
                threading.Thread(target=self._run, daemon=True, name=f"shard-fetch-{number}")
                for number in range(NUM_THREADS)
            ]
            for thread in self._threads:
                thread.start()

    def close(self) -> None:
        """Begin no further fetch; those under way end by themselves."""
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
                log.debug("not fetched ahead: %s", error)
