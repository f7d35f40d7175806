"""A source that was changed after it was listed is an error, whatever its kind; it is never read under old names."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import SourceChangedError
from data_prep.records import Record
from data_prep.sources import open_source

ConfigOf = Callable[..., PrepareConfig]
BEFORE = {"a/0.png": b"first", "a/0.txt": b"a cat", "b/1.png": b"other"}
AFTER = {"a/0.png": b"FIRST", "a/0.txt": b"a dog", "b/1.png": b"OTHER"}
FILE_TIMES = iter(range(1, 1000))


def write(path: Path, files: dict[str, bytes]) -> Path:
    """Write a folder, an archive or a table with these files; every call gives it another time."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif path.suffix in (".tar", ".gz"):
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    for file in [path, *path.rglob("*")]:
        os.utime(file, (0, next(FILE_TIMES)))
    return path


def listed(config: PrepareConfig) -> tuple[Any, list[Record]]:
    """List a source and open it again, as another process does."""
    return open_source(config), [item for item in open_source(config) if isinstance(item, Record)]


def assert_changed(config: PrepareConfig, records: list[Record]) -> None:
    source = open_source(config)
    with pytest.raises(SourceChangedError, match=r"^source .* was changed since it was listed \(.*\); rerun `e4t prep"):
        source.read(records[0])


@pytest.mark.parametrize(
    ("name", "options"),
    [("set", {}), ("set.zip", {}), ("set.tar", {}), ("set.tar.gz", {}), ("set.tar", {"type": "shards"})],
)
def test_files_that_were_replaced(tmp_path: Path, name: str, options: dict[str, str], config_of: ConfigOf) -> None:
    config = config_of(write(tmp_path / name, BEFORE), **options)
    source, records = listed(config)
    assert source.read(records[0]) == b"first"
    write(tmp_path / name, AFTER)
    assert_changed(config, records)


@pytest.mark.parametrize("name", ["set", "set.zip", "set.tar", "set.tar.gz"])
def test_a_caption_that_was_replaced(tmp_path: Path, name: str, config_of: ConfigOf) -> None:
    config = config_of(write(tmp_path / name, BEFORE))
    _, records = listed(config)
    write(tmp_path / name, BEFORE | {"a/0.txt": b"a dog"})
    with pytest.raises(SourceChangedError, match="was changed since it was listed"):
        open_source(config).caption(records[0])


def test_an_archive_that_was_only_copied_is_not_changed_if_it_has_checksums(
    tmp_path: Path, config_of: ConfigOf
) -> None:
    config = config_of(write(tmp_path / "set.zip", BEFORE))
    _, records = listed(config)
    write(tmp_path / "set.zip", BEFORE)
    assert open_source(config).read(records[0]) == b"first"


def test_a_damaged_member_of_an_unchanged_zip_is_no_change(tmp_path: Path, config_of: ConfigOf) -> None:
    path = write(tmp_path / "set.zip", BEFORE)
    path.write_bytes(path.read_bytes().replace(b"first", b"fIrst"))
    source, records = listed(config_of(path))
    with pytest.raises(Exception, match="damaged in archive"):
        source.read(records[0])


def test_an_archive_that_is_gone(tmp_path: Path, config_of: ConfigOf) -> None:
    source, records = listed(config_of(write(tmp_path / "set.tar", BEFORE)))
    (tmp_path / "set.tar").unlink()
    with pytest.raises(SourceChangedError, match="it is gone: No such file"):
        source.read(records[0])


def test_a_folder_at_a_url(config_of: ConfigOf) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe({f"/changing/{name}": data for name, data in BEFORE.items()})
    source, records = listed(config_of("memory://changing"))
    assert (source.read(records[0]), source.caption(records[0])) == (b"first", "a cat")
    fs.pipe({f"/changing/{name}": data for name, data in AFTER.items()})
    assert_changed(config_of("memory://changing"), records)


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz"])
def test_an_archive_at_a_url(tmp_path: Path, name: str, config_of: ConfigOf) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe(f"/changing/{name}", write(tmp_path / name, BEFORE).read_bytes())
    _, records = listed(config_of(f"memory://changing/{name}"))
    fs.pipe(f"/changing/{name}", write(tmp_path / name, AFTER).read_bytes())
    assert_changed(config_of(f"memory://changing/{name}"), records)


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_the_file_of_a_table_row(tmp_path: Path, change: str, config_of: ConfigOf) -> None:
    write(tmp_path / "set", BEFORE)
    (tmp_path / "list.csv").write_text("image\nset/a/0.png\n")
    config = config_of(tmp_path / "list.csv")
    _, records = listed(config)
    if change == "gone":
        (tmp_path / "set/a/0.png").unlink()
    else:
        write(tmp_path / "set", AFTER)
    assert_changed(config, records)


@pytest.mark.parametrize(
    ("layout", "streaming"),  # `datasets` cannot stream what it saved itself
    [("saved", False), ("parquet", False), ("parquet", True), ("arrow", False), ("arrow", True)],
)
def test_a_hugging_face_dataset(
    tmp_path: Path, layout: str, streaming: bool, config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()

    def save(files: dict[str, bytes]) -> Path:
        rows = [{"bytes": data, "path": name} for name, data in files.items() if name.endswith("png")]
        if layout == "parquet":
            schema = pyarrow.schema([("image", datasets.Image().pa_type)])
            pyarrow.parquet.write_table(pyarrow.table({"image": rows}, schema), tmp_path / "set.parquet")
            return tmp_path / "set.parquet"
        features = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_dict({"image": rows}, features=features).save_to_disk(tmp_path / "set")
        return tmp_path / "set" if layout == "saved" else tmp_path / "set" / "data-00000-of-00001.arrow"

    path = save(BEFORE)
    config = config_of(path, type="datasets", streaming=streaming)
    _, records = listed(config)
    save(AFTER)
    assert_changed(config, records)
