"""Entries wait on the disk until they have been dealt with, whoever was killed in between."""

from pathlib import Path

import pytest

from pipelines.tracking.event_queue import EventQueue

MANY = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def numbers(outbox: EventQueue, count: int = MANY) -> list[int]:
    return [entry["number"] for entry in outbox.peek(count)]


def filled(folder: Path, *entries: int) -> EventQueue:
    outbox = EventQueue(folder)
    for number in entries:
        outbox.append({"number": number})
    return outbox


def test_entries_come_in_the_order_in_which_they_were_put(folder: Path) -> None:
    outbox = filled(folder, 3, 1, 2)
    assert numbers(outbox) == [3, 1, 2]
    assert outbox.pending() == 3


def test_an_entry_comes_back_as_it_was(folder: Path) -> None:
    outbox, entry = EventQueue(folder), {"text": "ärger\n\u2028 'x' {", "nested": [[1, 2.5, None]]}
    outbox.append(entry)
    assert outbox.peek(1) == [entry]


def test_a_new_outbox_is_empty(folder: Path) -> None:
    assert (EventQueue(folder).pending(), EventQueue(folder).peek(MANY)) == (0, [])


def test_what_has_not_been_dealt_with_is_still_there(folder: Path) -> None:
    outbox = filled(folder, 1, 2)
    outbox.peek(1)
    assert numbers(outbox) == [1, 2]


def test_what_has_been_dealt_with_is_gone(folder: Path) -> None:
    outbox = filled(folder, 1, 2, 3)
    outbox.peek(2)
    outbox.ack()
    assert numbers(outbox) == [3]
    assert outbox.pending() == 1


def test_what_came_after_the_first_were_taken_still_waits(folder: Path) -> None:
    outbox = filled(folder, 1)
    outbox.peek(MANY)
    outbox.append({"number": 2})
    outbox.ack()
    assert numbers(outbox) == [2]


def test_nothing_is_dealt_with_that_nobody_has_taken(folder: Path) -> None:
    outbox = filled(folder, 1, 2, 3)
    outbox.ack()
    outbox.peek(1)
    outbox.ack()
    outbox.ack()
    assert numbers(outbox) == [2, 3]


def test_entries_outlive_the_process(folder: Path) -> None:
    before = filled(folder, 1, 2, 3)
    before.peek(1)
    before.ack()
    after = filled(folder, 4)
    assert numbers(after) == [2, 3, 4]


def test_one_that_a_crash_cut_short_is_left_out_and_the_next_is_not_glued_to_it(folder: Path) -> None:
    filled(folder, 1, 2)
    entries = folder / "entries.jsonl"
    entries.write_bytes(entries.read_bytes()[:-4])
    after = filled(folder, 3)
    assert after.pending() == 2
    assert numbers(after) == [1, 3]


def test_one_that_a_full_disk_cut_short_is_not_glued_to_the_next(folder: Path) -> None:
    outbox = filled(folder, 1)
    with (folder / "entries.jsonl").open("a") as file:
        file.write('\n{"numb')
    outbox.append({"number": 3})
    assert numbers(outbox) == [1, 3]


def test_what_was_cut_short_is_passed_by_for_good(folder: Path) -> None:
    outbox = filled(folder, 1)
    with (folder / "entries.jsonl").open("a") as file:
        file.write('\n{"numb')
    outbox.peek(MANY)
    outbox.ack()
    outbox.append({"number": 3})
    assert numbers(outbox) == [3]
    assert numbers(EventQueue(folder)) == [3]


def test_a_disk_that_takes_nothing_is_the_callers_to_know(folder: Path) -> None:
    outbox = filled(folder, 1)
    (folder / "entries.jsonl").unlink()
    (folder / "entries.jsonl").mkdir()
    with pytest.raises(OSError, match="entries"):
        outbox.append({"number": 2})
