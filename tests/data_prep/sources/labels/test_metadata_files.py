"""Metadata files beside images, as the ``imagefolder`` of Hugging Face ``datasets`` reads them."""

import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.config import PrepareConfig, ReadConfig
from data_prep.errors import DataError
from data_prep.records import Ignored, Record, Reject
from data_prep.sources import open_source

ConfigOf = Callable[..., PrepareConfig]
IMAGES = ("ann/0.png", "ann/1.png", "bob/0.png")
ROWS = [
    {"file_name": "ann/0.png", "text": "zero\u2028 é", "age": 31},
    {"file_name": "bob/0.png", "text": "1.50", "age": 0.5},
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three images of two persons."""
    for name in IMAGES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(name.encode())
    return tmp_path / "images"


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a metadata file in the format of its suffix."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        comma = "\t" if path.suffix == ".tsv" else ","
        path.write_text("".join(comma.join(map(str, row)) + "\n" for row in [rows[0], *(row.values() for row in rows)]))


def pack(folder: Path, path: Path) -> Path:
    """Pack a folder into an archive in the format of its suffix."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            for file in files:
                tar.add(file, file.relative_to(folder))
    return path


def captions(config: PrepareConfig) -> list[str | None]:
    source = open_source(config)
    return [source.caption(item) for item in source if isinstance(item, Record)]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet", "METADATA.CSV"])
@pytest.mark.parametrize("container", ["folder", "set.zip", "set.tar", "set.tar.gz"])
def test_columns_and_captions_arrive(
    name: str, container: str, images: Path, tmp_path: Path, config_of: ConfigOf
) -> None:
    write_table(images / name.lower(), ROWS)
    (images / name.lower()).rename(images / name)
    path = images if container == "folder" else pack(images, tmp_path / container)
    config = config_of(path, type="folder" if container == "folder" else "archive")
    items = list(open_source(config))
    records = [item for item in items if isinstance(item, Record)]
    assert captions(config) == ["zero\u2028 é", None, "1.50"]
    assert [record.columns for record in records] == [{"age": 31}, {}, {"age": 0.5}]
    assert [record.has_caption for record in records] == [True, False, True]
    (ignored,) = (item for item in items if isinstance(item, Ignored))
    assert (ignored.source.endswith(name), ignored.reason) == (True, "side table")


@pytest.mark.parametrize("container", ["folder", "set.zip"])
def test_the_nearest_file_above_an_image_counts(
    container: str, images: Path, tmp_path: Path, config_of: ConfigOf
) -> None:
    write_table(images / "metadata.csv", [{"file_name": name, "text": "far"} for name in IMAGES])
    write_table(images / "ann" / "metadata.jsonl", [{"file_name": "0.png", "caption": "near"}])
    path = images if container == "folder" else pack(images, tmp_path / container)
    config = config_of(path, type="folder" if container == "folder" else "archive")
    assert captions(config) == ["near", "far", "far"]


def test_the_caption_column_may_be_nested_and_hold_a_list(images: Path, config_of: ConfigOf) -> None:
    rows = [{"file_name": name, "meta": {"texts": [name, "more"]}} for name in IMAGES]
    write_table(images / "metadata.jsonl", rows)
    assert captions(config_of(images, caption_column="meta.texts")) == [*IMAGES]


def test_a_caption_file_is_preferred_to_a_column_that_was_not_configured(images: Path, config_of: ConfigOf) -> None:
    write_table(images / "metadata.csv", ROWS)
    (images / "bob" / "0.txt").write_text("file")
    assert captions(config_of(images)) == ["zero\u2028 é", None, "file"]
    assert captions(config_of(images, caption_column="text")) == ["zero\u2028 é", None, "1.50"]


def test_a_file_without_captions_configures_none(images: Path, config_of: ConfigOf) -> None:
    write_table(images / "metadata.csv", [{"file_name": "ann/0.png", "age": 31}])
    records = [item for item in open_source(config_of(images)) if isinstance(item, Record)]
    assert [(record.columns, record.has_caption) for record in records] == [({"age": 31}, None), ({}, None), ({}, None)]


def test_the_identity_may_be_a_column(images: Path, config_of: ConfigOf) -> None:
    write_table(images / "metadata.csv", [{"file_name": name, "who": f"person {name}"} for name in IMAGES[:2]])
    *records, reject, _ = open_source(config_of(images, identity_column="who"))
    assert [record.identity for record in records if isinstance(record, Record)] == [
        "person ann/0.png",
        "person ann/1.png",
    ]
    assert [record.columns for record in records if isinstance(record, Record)] == [{}, {}]
    assert isinstance(reject, Reject)
    assert (reject.source, reject.reason) == ("bob/0.png", "no identity in row")


def test_a_file_without_file_names_is_one_clear_error_unless_it_is_left_out(images: Path, config_of: ConfigOf) -> None:
    write_table(images / "metadata.csv", [{"path": "ann/0.png", "text": "zero"}])
    config = config_of(images)
    with pytest.raises(DataError, match=r"metadata.csv has no column 'file_name'.*leave the file out with data.read"):
        list(open_source(config))
    assert captions(replace(config, read=ReadConfig(exclude=("metadata.csv",)))) == [None, None, None]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_file_that_is_not_utf8_is_decoded_or_one_clear_error(name: str, images: Path, config_of: ConfigOf) -> None:
    write_table(images / name, [{"file_name": name, "text": "cafe"} for name in IMAGES])
    (images / name).write_bytes((images / name).read_bytes().replace(b"cafe", b"caf\xe9"))
    assert captions(config_of(images, fallback_encoding="cp1252")) == ["café"] * 3
    line = 1 if name.endswith("jsonl") else 2
    with pytest.raises(DataError, match=rf"{name}, line {line}: bytes e9 are not UTF-8; save it as UTF-8, or set"):
        list(open_source(config_of(images)))
