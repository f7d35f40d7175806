import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.sources import open_source
from data_prep.sources.detect import detect_type

ConfigOf = Callable[..., PrepareConfig]
WriteFiles = Callable[..., Path]


@pytest.mark.parametrize(
    ("source", "source_type"),
    [
        ("hf://org/name", "datasets"),
        ("set/faces.arrow", "datasets"),
        ("set/data-*.parquet", "datasets"),
        ("faces.zip", "archive"),
        ("s3.TAR.GZ", "archive"),
        ("sets/*.tar", "archive"),
        ("set-{000..041}.tar", "shards"),
        ("memory://x/set-{000..041}.tar", "shards"),
        ("list.csv", "table"),
        ("list.tsv", "table"),
        ("nowhere", "folder"),
    ],
)
def test_the_type_is_detected_from_the_name(source: str, source_type: str, config_of: ConfigOf) -> None:
    assert detect_type(config_of(source)) == source_type


@pytest.mark.parametrize(
    ("files", "source_type"),
    [
        (["a/0.png", "b.zip"], "folder"),
        (["0.png", "manifest.json"], "folder"),
        ([], "folder"),
        (["a.zip", "b.tar.gz", ".DS_Store"], "archive"),
        (["a.zip", "readme.md"], "archive"),
        (["a.zip", "0.jpg"], "folder"),
        (["0.arrow", "readme.md"], "datasets"),
        (["data/train-0.parquet", "README.md"], "datasets"),
        (["state.json", "dataset_info.json", "data-00000-of-00001.arrow"], "datasets"),
        (["dataset_dict.json", "train/state.json"], "datasets"),
    ],
)
def test_the_type_of_a_folder_is_detected_from_its_content(
    files: list[str], source_type: str, tmp_path: Path, write_files: WriteFiles, config_of: ConfigOf
) -> None:
    (tmp_path / "a folder.zip").mkdir()
    assert detect_type(config_of(write_files(tmp_path / "a folder.zip", *files))) == source_type


def test_the_content_of_a_folder_at_a_url_is_inspected(config_of: ConfigOf) -> None:
    fsspec.filesystem("memory").pipe("/only/archives/a.zip", b"")
    assert detect_type(config_of("memory://only/archives")) == "archive"
    with pytest.raises(DataError, match=r"holds archives in subfolders; give a pattern .* memory://only/\*/\*.zip"):
        detect_type(config_of("memory://only"))


def test_a_folder_with_a_manifest_of_e4t_is_detected_as_shards(shared_dataset: Path, config_of: ConfigOf) -> None:
    assert detect_type(config_of(shared_dataset)) == "shards"


@pytest.mark.parametrize(
    ("values", "source_type"),
    [(["0.png"], "table"), ([b"bytes"], "datasets"), ([{"bytes": b"", "path": ""}], "datasets"), ([0], "datasets")],
)
def test_a_parquet_file_with_strings_as_images_is_a_table_of_paths(
    values: list[object], source_type: str, tmp_path: Path, config_of: ConfigOf
) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"image": values}), tmp_path / "set.parquet")
    assert detect_type(config_of(tmp_path / "set.parquet")) == source_type


def test_the_type_can_be_set_explicitly(tmp_path: Path, write_files: WriteFiles, config_of: ConfigOf) -> None:
    write_files(tmp_path, "a/0.png")
    assert len(list(open_source(config_of(tmp_path, type="folder")))) == 1


def test_a_local_folder_imports_no_slow_libraries(tmp_path: Path, write_files: WriteFiles) -> None:
    write_files(tmp_path, "a/0.png")
    program = (
        "import sys; from data_prep.config import PrepareConfig; from data_prep.sources import open_source\n"
        f"print(len(list(open_source(PrepareConfig(source={str(tmp_path)!r}, output='x', domain='cat')))))\n"
        "print(sorted({'datasets', 'pyarrow', 'fsspec', 'torch', 'PIL'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert run.stdout.split("\n")[:2] == ["1", "[]"]
