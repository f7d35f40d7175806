import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from data_prep.sources.files import sequential
from data_prep.sources.files.sequential import HandleCache, SequentialReader, SequentialRows

DATA = bytes(range(256)) * 40


@pytest.fixture
def starts() -> list[str]:
    """One entry for each time that the stream or the rows were opened."""
    return []


@pytest.fixture
def reader(starts: list[str], monkeypatch: pytest.MonkeyPatch) -> SequentialReader:
    """A reader of 10 kB in chunks of 256 bytes, with a window of 1 kB."""
    monkeypatch.setattr(sequential, "CHUNK_BYTES", 256)
    monkeypatch.setattr(sequential, "WINDOW_BYTES", 1024)

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        starts.append("stream")
        with io.BufferedReader(io.BytesIO(DATA)) as file:  # type: ignore[type-var]
            yield file

    return SequentialReader(opened)


@pytest.fixture
def rows(starts: list[str]) -> SequentialRows[int]:
    """Rows 0 to 999."""

    class Numbers:
        def __iter__(self) -> Iterator[int]:
            starts.append("rows")
            return iter(range(1000))

    return SequentialRows(Numbers())


def test_reading_forwards_opens_the_stream_once(reader: SequentialReader, starts: list[str]) -> None:
    for offset in (0, 100, 90, 3000, 2500, 9000):
        assert reader.read(offset, 200) == DATA[offset : offset + 200]
    assert starts == ["stream"]


def test_reading_before_the_window_reopens_the_stream(reader: SequentialReader, starts: list[str]) -> None:
    assert reader.read(9000, 100) == DATA[9000:9100]
    assert reader.read(10, 100) == DATA[10:110]
    assert starts == ["stream", "stream"]


def test_a_read_larger_than_the_window_is_complete(reader: SequentialReader) -> None:
    assert reader.read(5, 9000) == DATA[5:9005]


def test_at_most_two_windows_are_kept_in_memory(reader: SequentialReader) -> None:
    reader.read(9000, 100)
    assert len(reader._buffer) <= 2 * 1024 + 256


def test_a_read_at_the_end_of_the_stream_is_short(reader: SequentialReader) -> None:
    assert reader.read(len(DATA) - 5, 10) == DATA[-5:]


def test_nearby_rows_iterate_once(rows: SequentialRows[int], starts: list[str]) -> None:
    assert [rows.read(row) for row in (3, 0, 70, 7, 500, 437)] == [3, 0, 70, 7, 500, 437]
    assert starts == ["rows"]


def test_a_row_before_the_window_restarts_the_iteration(rows: SequentialRows[int], starts: list[str]) -> None:
    assert [rows.read(row) for row in (500, 0)] == [500, 0]
    assert starts == ["rows", "rows"]


def test_a_row_beyond_the_end_is_an_error_and_others_can_still_be_read(rows: SequentialRows[int]) -> None:
    with pytest.raises(IndexError, match="fewer than 1001 rows"):
        rows.read(1000)
    assert rows.read(999) == 999


def test_the_two_most_recently_used_handles_stay_open() -> None:
    cache, created = HandleCache[str](), list[str]()

    def ask(name: str) -> str:
        return cache.get(name, lambda: created.append(name) or name)  # type: ignore[func-returns-value]

    assert [ask(name) for name in "aababcbac"] == [*"aababcbac"]
    assert created == [*"abcac"]
