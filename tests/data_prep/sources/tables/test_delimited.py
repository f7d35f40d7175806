import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources.tables.delimited import DelimitedReader

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
AWKWARD = TEXT | st.text(st.sampled_from('a",\t\n\r '), max_size=8)


def rows(text: str, delimiter: str = ",", path_column: str | None = "image") -> list[list[str | None]]:
    """Return the cells of each row, or one problem."""
    reader = DelimitedReader(io.StringIO(text, newline=""), delimiter, path_column)
    return [[row.problem] if row.problem else list(row.cells.values()) for row in reader]


def test_a_stray_quote_in_a_tsv_glues_no_rows() -> None:
    table = 'image\ttext\na.png\t"one\nb.png\ttwo\nc.png\t"three\nd.png\tfour "4"\n'
    assert rows(table, "\t") == [["a.png", '"one'], ["b.png", "two"], ["c.png", '"three'], ["d.png", 'four "4"']]


@pytest.mark.parametrize("last", ['c.png,"three', 'c.png,three"', 'c.png,"three, four"', "c.png,three"])
@pytest.mark.parametrize("stray", ['"one', '"one" more', 'five"', '"'])
def test_a_stray_quote_in_a_csv_glues_no_rows(stray: str, last: str) -> None:
    found = rows(f"image,text\na.png,{stray}\nb.png,two\n{last}\n")
    assert [row[0] for row in found] == ["a.png", "b.png", "c.png"]
    assert found[0][1] == stray


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_quoted_cells_may_hold_delimiters_quotes_and_line_breaks(delimiter: str) -> None:
    table = ["image", "text", "more"], ["a.png", f'x{delimiter}"y"\nline, two\n\nend', ""], ["b.png", "", "z\r\nz"]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter).writerows(table)
    assert rows(buffer.getvalue(), delimiter) == [*map(list, table[1:])]


def test_a_quoted_cell_with_line_breaks_may_stand_before_the_path() -> None:
    assert rows('text,image\n"one, two\nthree, four",a.png\nfive,b.png\n') == [
        ["one, two\nthree, four", "a.png"],
        ["five", "b.png"],
    ]


@pytest.mark.parametrize("third", ['"three,c.png', 'three",c.png', '"three, four",c.png', 'c"'])
def test_a_stray_quote_before_the_path_glues_no_rows(third: str) -> None:
    found = rows(f'text,image\n"one, more,a.png\ntwo,b.png\n{third}\n')
    assert found[:2] == [["line 2 has 3 cells for 2 columns"], ["two", "b.png"]]
    assert len(found) == 3


def test_paths_without_suffix_are_recognized_by_their_folder() -> None:
    assert rows('image,text\na/0,"one\na/1,two\na/2,three"\n') == [["a/0", '"one'], ["a/1", "two"], ["a/2", 'three"']]
    assert rows('image,text\na/0,"one\nb/1,two"\n') == [["a/0", "one\nb/1,two"]]


def test_a_row_with_too_many_cells_is_a_problem_and_one_with_few_is_not() -> None:
    assert rows("image,text\na.png,x,y\nb.png\n\nc.png,z,,\n") == [
        ["line 2 has 3 cells for 2 columns"],
        ["b.png", None],
        ["c.png", "z"],
    ]


def test_lines_after_a_stray_quote_keep_their_numbers() -> None:
    assert rows('image,text\na.png,"one\nb.png,x,y\n')[1] == ["line 3 has 3 cells for 2 columns"]


def test_a_file_that_is_no_text_is_an_error() -> None:
    for text in ("image\n" + "x" * 2**21, "image\na\0b\n"):
        with pytest.raises(ValueError, match="line 2 is too long or contains NUL"):
            rows(text)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(AWKWARD, AWKWARD), max_size=5), st.sampled_from([",", "\t"]))
def test_what_csv_writes_is_read_back(cells: list[tuple[str, str]], delimiter: str) -> None:
    table = [[f"{number}.png", *row] for number, row in enumerate(cells)]
    buffer = io.StringIO(newline="")
    # Tabs in cells with line breaks could make a line a row by itself.
    if delimiter == "\t":
        table = [[cell.replace("\t", " ") for cell in row] for row in table]
    csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([["image", "a", "b"], *table])
    assert rows(buffer.getvalue(), delimiter) == table


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from('a", .'), max_size=8), min_size=1, max_size=6), st.sampled_from([",", "\t"]))
def test_no_line_that_begins_with_a_path_is_lost(texts: list[str], delimiter: str) -> None:
    lines = [f"{number}.png{delimiter}{text}" for number, text in enumerate(texts)]
    found = rows(f"image{delimiter}text\n" + "\n".join(lines), delimiter)
    assert len(found) == len(texts)
    assert all(row[0] == f"{number}.png" for number, row in enumerate(found) if len(row) == 2)
