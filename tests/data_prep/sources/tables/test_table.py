import bz2
import gzip
import lzma
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError, SampleRejected
from data_prep.records import Ignored, Listed, Record, Reject
from data_prep.sources import open_source
from data_prep.sources.files import filesystem
from e4t_errors import ConfigError

ConfigOf = Callable[..., PrepareConfig]
ListItems = Callable[..., list[Listed]]
WriteFiles = Callable[..., Path]
RejectReasons = Callable[..., dict[str, str]]

COLUMNS = {
    "image": ["images/0.png", "images/1.png", "images/1.png"],
    "who": ["Ann", "Bob", "Bob"],
    "text": ["smiling", "", None],
    "left": [1, 2, 3],
    "sharp": [0.5, float("nan"), None],
}
SETTINGS = {"identity_column": "who", "caption_column": "text"}

every_format = pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    """Write a table in the format of its suffix."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return path
    rows = [columns, *zip(*columns.values(), strict=True)]
    comma = "\t" if path.suffix == ".tsv" else ","
    lines = [comma.join("" if cell is None or cell != cell else str(cell) for cell in row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def table(tmp_path: Path, write_files: WriteFiles) -> Callable[[str], Path]:
    """Three rows that name two images."""
    write_files(tmp_path, "images/0.png", "images/1.png")
    return lambda suffix: write(tmp_path / f"list{suffix}", COLUMNS)


@every_format
def test_a_row_is_an_image_with_its_columns(suffix: str, table: Callable[[str], Path], list_items: ListItems) -> None:
    records = [item for item in list_items(table(suffix), **SETTINGS) if isinstance(item, Record)]
    assert [(item.source, item.identity, item.caption) for item in records] == [
        ("images/0.png", "Ann", "smiling"),
        ("images/1.png", "Bob", None),
        ("images/1.png", "Bob", None),
    ]
    assert [item.columns for item in records] == [
        {"left": 1, "sharp": 0.5},
        {"left": 2, "sharp": None},
        {"left": 3, "sharp": None},
    ]


@every_format
def test_paths_are_relative_to_the_folder_of_the_table(
    suffix: str, table: Callable[[str], Path], config_of: ConfigOf
) -> None:
    source = open_source(config_of(table(suffix)))
    unpickled = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own bytes
    assert [unpickled.read(item)[-5:] for item in source if isinstance(item, Record)] == [b"0.png", b"1.png", b"1.png"]


@every_format
def test_the_same_path_in_two_rows_has_two_keys(
    suffix: str, table: Callable[[str], Path], list_items: ListItems
) -> None:
    keys = [item.key for item in list_items(table(suffix))]
    assert len(set(keys)) == 3
    assert [key[:-10] for key in keys] == ["images__0-", "images__1-", "images__1-"]


def test_without_an_identity_column_every_row_is_its_own_identity(
    table: Callable[[str], Path], list_items: ListItems
) -> None:
    assert all(isinstance(item, Record) and item.identity == item.key for item in list_items(table(".csv")))


def test_paths_may_be_absolute_or_urls(tmp_path: Path, write_files: WriteFiles, config_of: ConfigOf) -> None:
    write_files(tmp_path / "elsewhere", "0.png")
    fsspec.filesystem("memory").pipe("/far/1.png", b"far away")
    paths = [f"{tmp_path}/elsewhere/0.png", f"file://{tmp_path}/elsewhere/0.png", "memory://far/1.png"]
    source = open_source(config_of(write(tmp_path / "list.csv", {"image": paths})))
    assert [source.read(item) for item in source if isinstance(item, Record)] == [b"0.png", b"0.png", b"far away"]


def test_paths_in_a_table_at_a_url_are_relative_to_the_url(config_of: ConfigOf) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe("/tables/list.csv", b"image\nsub/0.png\n")
    fs.pipe("/tables/sub/0.png", b"beside")
    source = open_source(config_of("memory://tables/list.csv"))
    assert [source.read(item) for item in source if isinstance(item, Record)] == [b"beside"]


def test_a_row_without_path_or_identity_is_rejected(tmp_path: Path, reject_reasons: RejectReasons) -> None:
    path = write(tmp_path / "list.csv", {"image": ["", "0.png", "1.png"], "who": ["Ann", " ", "Bob"]})
    assert reject_reasons(path, identity_column="who") == {
        "list.csv row 0": "no path in row",
        "0.png": "no identity in row",
    }


def test_a_path_that_is_not_utf8_is_rejected(tmp_path: Path, reject_reasons: RejectReasons) -> None:
    (tmp_path / "list.csv").write_bytes(b"image\n\xff.png\n")
    assert reject_reasons(tmp_path / "list.csv") == {"\\udcff.png": "name is not UTF-8"}


@every_format
@pytest.mark.parametrize("setting", ["image_column", "identity_column", "caption_column"])
def test_a_missing_column_is_one_clear_error(
    suffix: str, setting: str, table: Callable[[str], Path], list_items: ListItems
) -> None:
    with pytest.raises(
        ConfigError, match=f"no column 'nope'; set data.source_options.{setting} to one of image, who, text, left"
    ):
        list_items(table(suffix), type="table", **{setting: "nope"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", None, r"list.csv does not exist \(No such file or directory\); check data.source"),
        ("list.parquet", None, "list.parquet does not exist"),
        ("list.parquet", b"no parquet", r"list.parquet cannot be read .*; repair the table"),
        ("list.csv", b"image\n" + b"x" * 2_000_000, "list.csv cannot be read .*line 2 is too long"),
    ],
)
def test_a_bad_table_is_one_clear_error(
    tmp_path: Path, name: str, content: bytes | None, message: str, list_items: ListItems
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list_items(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.tsv", "image\tn\n0.png\t1\n1.png\t2\n"),
        ("list.jsonl", '{"image": "0.png", "n": 1}\n\n{"n": 2, "image": "1.png"}\n'),
        ("list.ndjson", '{"image": "0.png", "n": 1}\n{"n": 2, "image": "1.png"}\n'),
    ],
)
@pytest.mark.parametrize("codec", ["", ".gz", ".bz2", ".xz"])
def test_text_tables_may_be_compressed(
    tmp_path: Path, name: str, content: str, codec: str, list_items: ListItems
) -> None:
    compress = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[codec]
    (tmp_path / f"{name}{codec}").write_bytes(compress(content.encode()))
    records = [item for item in list_items(tmp_path / f"{name}{codec}") if isinstance(item, Record)]
    assert [(item.source, item.columns) for item in records] == [("0.png", {"n": 1}), ("1.png", {"n": 2})]


def test_a_text_file_is_a_list_of_paths_and_urls(tmp_path: Path, list_items: ListItems) -> None:
    (tmp_path / "list.txt").write_text("a/0.png\n\nhttp://host/1.png?x=1 \r\n")
    assert [item.source for item in list_items(tmp_path / "list.txt")] == ["a/0.png", "http://host/1.png?x=1"]
    with pytest.raises(ConfigError, match="list .*list.txt has no column 'who'"):
        list_items(tmp_path / "list.txt", identity_column="who")


def test_a_malformed_row_is_rejected_with_its_line(tmp_path: Path, list_items: ListItems) -> None:
    (tmp_path / "list.csv").write_text("image,text\n0.png,a, b\n1.png,c\n")
    (tmp_path / "list.jsonl").write_text('{"image": "0.png"}\nnothing\n[1]\n')
    reject, record = list_items(tmp_path / "list.csv")
    assert reject == Reject(
        key="row-000000000",
        source="list.csv row 0",
        reason="malformed row",
        cause="line 2 has 3 cells for 2 columns",
    )
    assert isinstance(record, Record)
    causes = [item.cause for item in list_items(tmp_path / "list.jsonl") if isinstance(item, Reject)]
    assert causes == ["line 2 is not a JSON object", "line 3 is not a JSON object"]


def test_several_tables_are_one_source(tmp_path: Path, list_items: ListItems, reject_reasons: RejectReasons) -> None:
    write(tmp_path / "list-0.csv", {"image": ["0.png", ""], "n": [1, 2]})
    write(tmp_path / "list-1.csv", {"image": ["0.png", ""], "n": [1, 2]})
    keys = [item.key for item in list_items(f"{tmp_path}/list-*.csv") if not isinstance(item, Ignored)]
    assert len(set(keys)) == 4
    assert reject_reasons(f"{tmp_path}/list-{{0..1}}.csv") == {
        "list-0.csv row 1": "no path in row",
        "list-1.csv row 1": "no path in row",
    }


def test_a_folder_of_parquet_files_with_paths_is_a_table(
    tmp_path: Path, write_files: WriteFiles, list_items: ListItems
) -> None:
    write(tmp_path / "0.parquet", {"image": ["0.png"]})
    write(tmp_path / "1.parquet", {"image": ["1.png"]})
    write_files(tmp_path, "._0.parquet", "readme.md", "_tmp/x")
    items = list_items(tmp_path)
    assert {item.source: item.reason for item in items if isinstance(item, Ignored)} == {
        "._0.parquet": "hidden",
        "readme.md": "extension .md",
        "_tmp/": "folder beside tables",
    }
    assert [item.source for item in items if isinstance(item, Record)] == ["0.png", "1.png"]


def test_a_missing_image_is_rejected_for_good(tmp_path: Path, config_of: ConfigOf) -> None:
    source = open_source(config_of(write(tmp_path / "list.csv", {"image": ["0.png", "memory://nowhere/0.png"]})))
    for record in source:
        assert isinstance(record, Record)
        with pytest.raises(SampleRejected) as caught:
            source.read(record)
        assert (caught.value.reason, caught.value.retryable) == ("missing", False)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
def test_a_pipe_is_rejected_and_does_not_block(tmp_path: Path, config_of: ConfigOf) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    source = open_source(config_of(write(tmp_path / "list.csv", {"image": ["pipe.png"]})))
    (record,) = source
    with pytest.raises(SampleRejected, match="is not a file"):
        source.read(record)  # type: ignore[arg-type]


def test_a_file_that_is_too_large_is_rejected(
    table: Callable[[str], Path], config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "MAX_FILE_BYTES", 5)
    source = open_source(config_of(table(".csv")))
    with pytest.raises(SampleRejected, match="file too large"):
        source.read(next(iter(source)))  # type: ignore[arg-type]


def test_the_version_changes_with_a_local_file(
    table: Callable[[str], Path], tmp_path: Path, list_items: ListItems
) -> None:
    path = table(".csv")
    before = list_items(path)
    os.utime(tmp_path / "images" / "0.png", (1, 1))
    assert [new != old for new, old in zip(list_items(path), before, strict=True)] == [True, False, False]
