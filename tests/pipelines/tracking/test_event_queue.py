"""Entries wait on the disk until they have been dealt with, whoever was killed in between."""

from pathlib import Path

import pytest

from pipelines.tracking.event_queue import Outbox

MANY = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def numbers(outbox: Outbox, count: int = MANY) -> list[int]:
    return [entry["number"] for entry in outbox.first(count)]


def filled(folder: Path, *entries: int) -> Outbox:
    outbox = Outbox(folder)
    for number in entries:
        outbox.put({"number": number})
    return outbox


def test_entries_come_in_the_order_in_which_they_were_put(folder: Path) -> None:
    outbox = filled(folder, 3, 1, 2)
    assert numbers(outbox) == [3, 1, 2]
    assert outbox.waiting() == 3


def test_an_entry_comes_back_as_it_was(folder: Path) -> None:
    outbox, entry = Outbox(folder), {"text": "ärger\n\u2028 'x' {", "nested": [[1, 2.5, None]]}
    outbox.put(entry)
    assert outbox.first(1) == [entry]


def test_a_new_outbox_is_empty(folder: Path) -> None:
    assert (Outbox(folder).waiting(), Outbox(folder).first(MANY)) == (0, [])


def test_what_has_not_been_dealt_with_is_still_there(folder: Path) -> None:
    outbox = filled(folder, 1, 2)
    outbox.first(1)
    assert numbers(outbox) == [1, 2]


def test_what_has_been_dealt_with_is_gone(folder: Path) -> None:
    outbox = filled(folder, 1, 2, 3)
    outbox.first(2)
    outbox.done()
    assert numbers(outbox) == [3]
    assert outbox.waiting() == 1


def test_what_came_after_the_first_were_taken_still_waits(folder: Path) -> None:
    outbox = filled(folder, 1)
    outbox.first(MANY)
    outbox.put({"number": 2})
    outbox.done()
    assert numbers(outbox) == [2]


def test_nothing_is_dealt_with_that_nobody_has_taken(folder: Path) -> None:
    outbox = filled(folder, 1, 2, 3)
    outbox.done()
    outbox.first(1)
    outbox.done()
    outbox.done()
    assert numbers(outbox) == [2, 3]


def test_entries_outlive_the_process(folder: Path) -> None:
    before = filled(folder, 1, 2, 3)
    before.first(1)
    before.done()
    after = filled(folder, 4)
    assert numbers(after) == [2, 3, 4]


def test_one_that_a_crash_cut_short_is_left_out_and_the_next_is_not_glued_to_it(folder: Path) -> None:
    filled(folder, 1, 2)
    entries = folder / "entries.jsonl"
    entries.write_bytes(entries.read_bytes()[:-4])
    after = filled(folder, 3)
    assert after.waiting() == 2
    assert numbers(after) == [1, 3]


def test_one_that_a_full_disk_cut_short_is_not_glued_to_the_next(folder: Path) -> None:
    outbox = filled(folder, 1)
    with (folder / "entries.jsonl").open("a") as file:
        file.write('\n{"numb')
    outbox.put({"number": 3})
    assert numbers(outbox) == [1, 3]


def test_what_was_cut_short_is_passed_by_for_good(folder: Path) -> None:
    outbox = filled(folder, 1)
    with (folder / "entries.jsonl").open("a") as file:
        file.write('\n{"numb')
    outbox.first(MANY)
    outbox.done()
    outbox.put({"number": 3})
    assert numbers(outbox) == [3]
    assert numbers(Outbox(folder)) == [3]


def test_a_disk_that_takes_nothing_is_the_callers_to_know(folder: Path) -> None:
    outbox = filled(folder, 1)
    (folder / "entries.jsonl").unlink()
    (folder / "entries.jsonl").mkdir()
    with pytest.raises(OSError, match="entries"):
        outbox.put({"number": 2})
