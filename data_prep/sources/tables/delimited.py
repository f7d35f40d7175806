"""Read the rows of comma- and tab-separated text without letting a stray quote glue rows together."""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from data_prep.images.formats import is_image_suffix
from data_prep.sources.names import split_suffix

MAX_LINE_CHARACTERS = 2**20
"""Longer lines mean that the file is not a table."""
MAX_ROW_LINES = 200
"""Largest number of lines of a row with line breaks between quotes."""


@dataclass(frozen=True)
class TextRow:
    """A row of a text table."""

    line: int
    """Number of its first line, from 1."""
    cells: dict[str, str | None]
    """Cells by column; None for cells that the row lacks at its end."""
    problem: str = ""
    """Why the row cannot be read with certainty; empty if it can."""


class DelimitedReader:
    """Rows of a table with a header.

    Cells may be quoted as RFC 4180 says, also around delimiters and line breaks. A quote that opens a cell and is not
    closed as it says is taken literally. So is one whose closing quote would swallow a line that is a row by itself:
    one with the right number of cells, and in comma-separated text, where captions may look like rows, with a path.
    """

    def __init__(self, file: TextIO, delimiter: str, path_column: str | None = None) -> None:
        self._lines, self._delimiter = _Lines(file), delimiter
        header = self._lines.next()
        self.columns = (header and self._parse([header])) or (header or "").rstrip("\r\n").split(delimiter)
        """Names of the columns."""
        self._path_index = self.columns.index(path_column) if path_column in self.columns else 0

    def __iter__(self) -> Iterator[TextRow]:
        """Yield the rows; empty lines are skipped. Raises ValueError if the file is not text with lines."""
        while (text := self._lines.next()) is not None:
            line = self._lines.number
            if not text.strip("\r\n"):
                continue
            cells: list[str | None] = [*self._cells(text)]
            while len(cells) > len(self.columns) and not cells[-1]:
                cells.pop()
            problem = f"line {line} has {len(cells)} cells for {len(self.columns)} columns"
            cells += [None] * (len(self.columns) - len(cells))
            yield TextRow(
                line,
                dict(zip(self.columns, cells, strict=False)),
                problem if len(cells) > len(self.columns) else "",
            )

    def _cells(self, text: str) -> list[str]:
        """Split a line, and the following ones that belong to it, into cells."""
        plain = text.rstrip("\r\n").split(self._delimiter)
        if '"' not in text:
            return plain
        cells = self._parse([text])
        if cells is None:
            swallowed = list[str]()
            cells = self._parse(self._row_lines(text, plain, swallowed))
            if cells is None or len(cells) != len(self.columns):
                self._lines.push_back(swallowed)
                cells = None
        fits = cells is not None and (len(cells) == len(self.columns) or len(plain) != len(self.columns))
        return cells if cells is not None and fits else plain

    def _parse(self, lines: list[str] | Iterator[str]) -> list[str] | None:
        """Parse the first row as RFC 4180 says; None if it does not end within the lines, or has misplaced quotes."""
        try:
            return next(csv.reader(lines, delimiter=self._delimiter, strict=True), None)
        except csv.Error:
            return None

    def _row_lines(self, first: str, plain: list[str], swallowed: list[str]) -> Iterator[str]:
        """Yield the lines from ``first`` up to one that is a row by itself, and collect the further ones."""
        yield first
        while len(swallowed) < MAX_ROW_LINES and (text := self._lines.next()) is not None:
            swallowed.append(text)
            if self._is_row(text, plain):
                return
            yield text

    def _is_row(self, text: str, plain_first: list[str]) -> bool:
        """Return whether a line that follows an open quote is a row by itself."""
        plain = text.rstrip("\r\n").split(self._delimiter)
        if len(self.columns) == 1:
            return True
        if self._delimiter == "\t":
            return len(plain) == len(self.columns)
        # A line that begins with the path is a row. A path further back may also follow the end of a quoted cell.
        may_be_row = self._path_index == 0 or '"' not in text or self._names_image(plain_first, [])
        return may_be_row and any(self._names_image(cells, plain_first) for cells in (plain, self._parse([text]) or []))

    def _path(self, cells: list[str]) -> str:
        """Return the path in the cells of a row; empty if there are too few cells."""
        return cells[self._path_index].strip().strip('"') if len(cells) >= len(self.columns) else ""

    def _names_image(self, cells: list[str], plain_first: list[str]) -> bool:
        """Return whether these cells hold a URL, a path with an image suffix, or one in the folder of the first row.

        ``plain_first`` are the cells of the line with the open quote.
        """
        path, folder = self._path(cells), self._path(plain_first).rpartition("/")[0]
        return "://" in path or is_image_suffix(split_suffix(path)[1]) or bool(folder and path.startswith(f"{folder}/"))


class _Lines:
    """Lines of a file, some of which are returned to be read again."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._pending = file, deque[str]()
        self.number = 0
        """Number of the last line, from 1."""

    def next(self) -> str | None:
        """Return the next line with its end, or None at the end of the file. Raises ValueError for a line of data."""
        line = self._pending.popleft() if self._pending else self._file.readline(MAX_LINE_CHARACTERS)
        if not line:
            return None
        self.number += 1
        if len(line) == MAX_LINE_CHARACTERS or "\0" in line:
            raise ValueError(f"line {self.number} is too long or contains NUL, so this is not a text table")
        return line

    def push_back(self, lines: list[str]) -> None:
        """Return the last lines."""
        self._pending.extendleft(reversed(lines))
        self.number -= len(lines)
