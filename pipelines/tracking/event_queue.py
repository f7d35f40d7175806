"""A queue on disk between the thread that logs and the thread that sends to MLflow."""

import json
import threading
from pathlib import Path
from typing import Any

from data_prep.storage.atomic import atomic_write


class EventQueue:
    """A folder with ``entries.jsonl``, which is only appended to, and ``sent``, how many bytes of it have been handled.

    The queue outlives the process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._entries_path, self._sent_path = folder / "entries.jsonl", folder / "sent"
        self._lock = threading.Lock()
        self._offset = int(self._sent_path.read_text()) if self._sent_path.exists() else 0
        self._entries_path.touch()
        self._peeked: list[bytes] = []

    def append(self, entry: dict[str, Any]) -> None:
        """Append an entry. Raises OSError if it cannot be written."""
        # The leading newline ends a line that a crash or a full disk left incomplete.
        with self._lock, self._entries_path.open("a") as file:
            file.write("\n" + json.dumps(entry))

    def pending(self) -> int:
        """Return the number of entries that have not been handled."""
        return sum(1 for line in self._lines() if _parse_entry(line))

    def peek(self, count: int) -> list[dict[str, Any]]:
        """Return the oldest unhandled entries, at most ``count``."""
        self._peeked = []
        entries: list[dict[str, Any]] = []
        for line in self._lines():
            if len(entries) == count:
                break
            self._peeked.append(line)
            if entry := _parse_entry(line):
                entries.append(entry)
        return entries

    def ack(self) -> None:
        """Mark the entries of the last ``peek`` as handled."""
        self._offset += sum(map(len, self._peeked))
        self._peeked = []
        atomic_write(self._sent_path, str(self._offset))

    def last(self) -> dict[str, Any] | None:
        """Return the newest entry, handled or not; None if there is none."""
        with self._lock, self._entries_path.open("rb") as file:
            entries = (_parse_entry(line) for line in reversed(file.readlines()))
            return next((entry for entry in entries if entry), None)

    def _lines(self) -> list[bytes]:
        with self._lock, self._entries_path.open("rb") as file:
            file.seek(self._offset)
            return file.readlines()


def _parse_entry(line: bytes) -> dict[str, Any] | None:
    """Parse a line; returns None for an empty or incomplete one."""
    try:
        entry: dict[str, Any] = json.loads(line)
        return entry
    except ValueError:
        return None
