"""Entries that wait on the disk until somebody has taken them: appended by one thread, sent by another."""

import json
import threading
from pathlib import Path
from typing import Any

from data_prep.storage.atomic import atomic_write


class EventQueue:
    """A folder with ``entries.jsonl`` and ``sent``, how many bytes of it have been dealt with; outlives the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._entries_path, self._sent_path = folder / "entries.jsonl", folder / "sent"
        self._lock = threading.Lock()
        self._offset = int(self._sent_path.read_text()) if self._sent_path.exists() else 0
        self._entries_path.touch()
        self._peeked: list[bytes] = []

    def append(self, entry: dict[str, Any]) -> None:
        """Append an entry. Raises OSError if the disk will not take it."""
        with self._lock, self._entries_path.open("a") as file:
            file.write("\n" + json.dumps(entry))  # ends what a crash or a full disk may have left half written

    def pending(self) -> int:
        """Entries that have not been dealt with."""
        return sum(1 for line in self._lines() if _parse_entry(line))

    def peek(self, count: int) -> list[dict[str, Any]]:
        """The oldest ones that wait, at most ``count``."""
        self._peeked = []
        found: list[dict[str, Any]] = []
        for line in self._lines():
            if len(found) == count:
                break
            self._peeked.append(line)
            if entry := _parse_entry(line):
                found.append(entry)
        return found

    def ack(self) -> None:
        """What ``first`` gave has been dealt with."""
        self._offset += sum(map(len, self._peeked))
        self._peeked = []
        atomic_write(self._sent_path, str(self._offset))

    def _lines(self) -> list[bytes]:
        with self._lock, self._entries_path.open("rb") as file:
            file.seek(self._offset)
            return file.readlines()


def _parse_entry(line: bytes) -> dict[str, Any] | None:
    """None for an empty line or one that a crash cut short."""
    try:
        entry: dict[str, Any] = json.loads(line)
        return entry
    except ValueError:
        return None
