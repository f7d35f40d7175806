import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from data_prep.sources import sequential as forward
from data_prep.sources.sequential import HandleCache, SequentialReader, SequentialRows

DATA = bytes(range(256)) * 40


@pytest.fixture
def starts() -> list[str]:
    """A line for every time that something was begun anew."""
    return []


@pytest.fixture
def reader(starts: list[str], monkeypatch: pytest.MonkeyPatch) -> SequentialReader:
    """Of 10 kB, of which 1 to 2 kB are kept, read 256 bytes at a time."""
    monkeypatch.setattr(forward, "CHUNK_BYTES", 256)
    monkeypatch.setattr(forward, "WINDOW_BYTES", 1024)

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        starts.append("stream")
        with io.BufferedReader(io.BytesIO(DATA)) as file:  # type: ignore[type-var]
            yield file

    return SequentialReader(opened)


@pytest.fixture
def rows(starts: list[str]) -> SequentialRows[int]:
    """A thousand numbers."""

    class Numbers:
        def __iter__(self) -> Iterator[int]:
            starts.append("rows")
            return iter(range(1000))

    return SequentialRows(Numbers())


def test_reading_forwards_starts_the_stream_once(reader: SequentialReader, starts: list[str]) -> None:
    for offset in (0, 100, 90, 3000, 2500, 9000):
        assert reader.read(offset, 200) == DATA[offset : offset + 200]
    assert starts == ["stream"]


def test_reading_far_back_starts_the_stream_again(reader: SequentialReader, starts: list[str]) -> None:
    assert reader.read(9000, 100) == DATA[9000:9100]
    assert reader.read(10, 100) == DATA[10:110]
    assert starts == ["stream", "stream"]


def test_more_than_the_window_is_read_whole(reader: SequentialReader) -> None:
    assert reader.read(5, 9000) == DATA[5:9005]


def test_no_more_than_the_window_twice_is_kept(reader: SequentialReader) -> None:
    reader.read(9000, 100)
    assert len(reader._buffer) <= 2 * 1024 + 256


def test_at_the_end_there_is_less(reader: SequentialReader) -> None:
    assert reader.read(len(DATA) - 5, 10) == DATA[-5:]


def test_rows_near_each_other_start_once(rows: SequentialRows[int], starts: list[str]) -> None:
    assert [rows.read(row) for row in (3, 0, 70, 7, 500, 437)] == [3, 0, 70, 7, 500, 437]
    assert starts == ["rows"]


def test_a_row_far_back_starts_again(rows: SequentialRows[int], starts: list[str]) -> None:
    assert [rows.read(row) for row in (500, 0)] == [500, 0]
    assert starts == ["rows", "rows"]


def test_a_row_beyond_the_end_is_an_os_error_and_others_can_still_be_read(rows: SequentialRows[int]) -> None:
    with pytest.raises(OSError, match="fewer than 1001 rows"):
        rows.read(1000)
    assert rows.read(999) == 999


def test_the_last_two_are_kept_open() -> None:
    opened, made = HandleCache[str](), list[str]()

    def ask(name: str) -> str:
        return opened.get(name, lambda: made.append(name) or name)  # type: ignore[func-returns-value]

    assert [ask(name) for name in "aababcbac"] == [*"aababcbac"]
    assert made == [*"abcac"]
