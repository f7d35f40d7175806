import pytest

from data_prep.sources.labels.path_table import PathTable, normalize_path


def table(*paths: str) -> PathTable[str]:
    return PathTable({normalize_path(path): path for path in paths})


@pytest.mark.parametrize(
    ("rows", "path", "found"),
    [
        # the exact path
        (["cat/0.png", "dog/0.png"], "dog/0.png", "dog/0.png"),
        (["cat/0", "dog/0"], "dog/0.png", "dog/0"),
        (["0.png", "cat/0.png", "a/cat/0.png"], "cat/0.png", "cat/0.png"),
        (["cat/0", "cat/0.png"], "cat/0.png", "cat/0.png"),
        (["./cat//0.png"], "cat/0.png", "./cat//0.png"),
        (["cat\\0.png"], "cat/0.png", "cat\\0.png"),
        (["cafe\u0301/0.png"], "café/0.png", "cafe\u0301/0.png"),
        # rows with fewer folders: the longest one
        (["0.png", "cat/0.png"], "a/cat/0.png", "cat/0.png"),
        (["0.png"], "a/cat/0.png", "0.png"),
        (["0"], "a/cat/0.png", "0"),
        # rows with more folders, if there is one
        (["a/cat/0.png", "a/dog/0.png"], "dog/0.png", "a/dog/0.png"),
        (["/home/me/a/dog/0.png"], "dog/0.png", "/home/me/a/dog/0.png"),
        (["a/cat/0"], "0.png", "a/cat/0"),
        (["a/0.png", "b/0.png"], "0.png", None),
        (["a/x/0.png", "b/x/0.png", "0.png"], "x/0.png", None),
        # other folders or suffixes
        (["cat/0.png"], "dog/0.png", None),
        (["train/cat/0.png"], "val/cat/0.png", None),
        (["xcat/0.png"], "cat/0.png", None),
        (["cat/10.png"], "0.png", None),
        (["cat/0.jpg"], "cat/0.png", None),
        ([], "0.png", None),
    ],
)
def test_an_image_gets_the_row_that_shares_the_longest_tail_with_its_path(
    rows: list[str], path: str, found: str | None
) -> None:
    assert table(*rows).find(path) == found
    assert table(*reversed(rows)).find(path) == found
