"""Entries stay in the queue on disk until they are acknowledged, even if the process is killed in between."""

from pathlib import Path

import pytest

from pipelines.tracking.event_queue import EventQueue

ALL = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "queue"


def numbers(queue: EventQueue, count: int = ALL) -> list[int]:
    return [entry["number"] for entry in queue.peek(count)]


def filled(folder: Path, *entries: int) -> EventQueue:
    queue = EventQueue(folder)
    for number in entries:
        queue.append({"number": number})
    return queue


def test_entries_are_returned_in_the_order_in_which_they_were_appended(folder: Path) -> None:
    queue = filled(folder, 3, 1, 2)
    assert numbers(queue) == [3, 1, 2]
    assert queue.pending() == 3


def test_an_entry_is_returned_unchanged(folder: Path) -> None:
    queue, entry = EventQueue(folder), {"text": "ärger\n\u2028 'x' {", "nested": [[1, 2.5, None]]}
    queue.append(entry)
    assert queue.peek(1) == [entry]


def test_a_new_queue_is_empty(folder: Path) -> None:
    assert (EventQueue(folder).pending(), EventQueue(folder).peek(ALL)) == (0, [])


def test_an_entry_that_is_not_acknowledged_stays(folder: Path) -> None:
    queue = filled(folder, 1, 2)
    queue.peek(1)
    assert numbers(queue) == [1, 2]


def test_an_acknowledged_entry_is_gone(folder: Path) -> None:
    queue = filled(folder, 1, 2, 3)
    queue.peek(2)
    queue.ack()
    assert numbers(queue) == [3]
    assert queue.pending() == 1


def test_an_entry_appended_after_the_peek_is_not_acknowledged(folder: Path) -> None:
    queue = filled(folder, 1)
    queue.peek(ALL)
    queue.append({"number": 2})
    queue.ack()
    assert numbers(queue) == [2]


def test_without_a_peek_nothing_is_acknowledged(folder: Path) -> None:
    queue = filled(folder, 1, 2, 3)
    queue.ack()
    queue.peek(1)
    queue.ack()
    queue.ack()
    assert numbers(queue) == [2, 3]


def test_entries_outlive_the_process(folder: Path) -> None:
    before = filled(folder, 1, 2, 3)
    before.peek(1)
    before.ack()
    after = filled(folder, 4)
    assert numbers(after) == [2, 3, 4]


def test_an_entry_that_a_crash_truncated_is_skipped_and_the_next_is_complete(folder: Path) -> None:
    filled(folder, 1, 2)
    entries = folder / "entries.jsonl"
    entries.write_bytes(entries.read_bytes()[:-4])
    after = filled(folder, 3)
    assert after.pending() == 2
    assert numbers(after) == [1, 3]


def test_an_entry_that_a_full_disk_truncated_does_not_corrupt_the_next(folder: Path) -> None:
    queue = filled(folder, 1)
    with (folder / "entries.jsonl").open("a") as file:
        file.write('\n{"numb')
    queue.append({"number": 3})
    assert numbers(queue) == [1, 3]


def test_a_truncated_entry_can_be_acknowledged(folder: Path) -> None:
    queue = filled(folder, 1)
    with (folder / "entries.jsonl").open("a") as file:
        file.write('\n{"numb')
    queue.peek(ALL)
    queue.ack()
    queue.append({"number": 3})
    assert numbers(queue) == [3]
    assert numbers(EventQueue(folder)) == [3]


def test_an_entry_that_cannot_be_written_raises_os_error(folder: Path) -> None:
    queue = filled(folder, 1)
    (folder / "entries.jsonl").unlink()
    (folder / "entries.jsonl").mkdir()
    with pytest.raises(OSError, match="entries"):
        queue.append({"number": 2})


def test_last_returns_the_newest_entry_even_if_it_is_acknowledged(folder: Path) -> None:
    assert EventQueue(folder).last() is None
    queue = filled(folder, 1, 2)
    queue.peek(ALL)
    queue.ack()
    with (folder / "entries.jsonl").open("a") as file:
        file.write('\n{"numb')
    assert queue.last() == {"number": 2}
