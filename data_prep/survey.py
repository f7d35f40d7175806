"""The survey: one read of every file before the plan, for its digest, its caption, and to drop exact duplicates."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_prep.config import PrepareConfig
from data_prep.files import sha256_of
from data_prep.sources import Record, Reject, caption_of

EMPTY = hashlib.sha256().hexdigest()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A picture as planned: all that its part of a shard follows from, so that a change of picture or caption shows."""

    key: str
    """As in Record."""
    identity: str
    """As in Record."""
    source: str
    """As in Record."""
    caption: str
    """From the file beside it, or the template."""
    sha256: str
    """Of the file's bytes."""


def survey(records: Iterable[Record], config: PrepareConfig, pool: Executor) -> tuple[list[Entry], list[Reject]]:
    """Look at every file; of files with the same bytes the first is kept, and one that cannot be read is rejected."""
    entries: list[Entry] = []
    rejects: list[Reject] = []
    seen: set[str] = set()
    for looked in pool.map(partial(_look, config=config), records, chunksize=64):
        if isinstance(looked, Reject):
            rejects.append(looked)
        elif looked.sha256 in seen:
            rejects.append(Reject(key=looked.key, source=looked.source, reason="exact duplicate"))
        else:
            entries.append(looked)
            # Empty files are no copies of each other: they are kept out one by one, as empty, when they are opened.
            seen |= {looked.sha256} - {EMPTY}
    return entries, rejects


def _look(record: Record, config: PrepareConfig) -> Entry | Reject:
    try:
        return Entry(
            key=record.key,
            identity=record.identity,
            source=record.source,
            caption=caption_of(record, config),
            sha256=sha256_of(Path(config.source) / record.source),
        )
    except OSError:
        return Reject(key=record.key, source=record.source, reason="unreadable")
