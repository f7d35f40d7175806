import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from data_prep.config import PrepareConfig
from data_prep.sources import open_source
from data_prep.sources.detect import detect_type

ConfigOf = Callable[..., PrepareConfig]
Put = Callable[..., Path]


@pytest.mark.parametrize(
    ("source", "kind"),
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
def test_a_name_tells_the_kind(source: str, kind: str, config_of: ConfigOf) -> None:
    assert detect_type(config_of(source)) == kind


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["a/0.png", "b.zip"], "folder"),
        (["0.png", "manifest.json"], "folder"),
        ([], "folder"),
        (["a.zip", "b.tar.gz", ".DS_Store"], "archive"),
        (["a.zip", "readme.md"], "folder"),
        (["state.json", "dataset_info.json", "data-00000-of-00001.arrow"], "datasets"),
        (["dataset_dict.json", "train/state.json"], "datasets"),
    ],
)
def test_what_a_folder_holds_tells_the_kind(
    files: list[str], kind: str, tmp_path: Path, put: Put, config_of: ConfigOf
) -> None:
    (tmp_path / "a folder.zip").mkdir()
    assert detect_type(config_of(put(tmp_path / "a folder.zip", *files))) == kind


def test_a_folder_at_a_url_is_looked_into_too(config_of: ConfigOf) -> None:
    fsspec.filesystem("memory").pipe("/only/archives/a.zip", b"")
    assert detect_type(config_of("memory://only/archives")) == "archive"
    assert detect_type(config_of("memory://only")) == "folder"


def test_a_manifest_of_ours_makes_a_folder_a_set(shared_set: Path, config_of: ConfigOf) -> None:
    assert detect_type(config_of(shared_set)) == "shards"


@pytest.mark.parametrize(
    ("values", "kind"),
    [(["0.png"], "table"), ([b"bytes"], "datasets"), ([{"bytes": b"", "path": ""}], "datasets"), ([0], "datasets")],
)
def test_texts_in_a_parquet_file_are_paths(
    values: list[object], kind: str, tmp_path: Path, config_of: ConfigOf
) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"image": values}), tmp_path / "set.parquet")
    assert detect_type(config_of(tmp_path / "set.parquet")) == kind


def test_the_kind_can_be_given(tmp_path: Path, put: Put, config_of: ConfigOf) -> None:
    put(tmp_path, "a/0.png")
    assert len(list(open_source(config_of(tmp_path, type="folder")))) == 1


def test_a_folder_here_needs_nothing_that_is_slow_to_import(tmp_path: Path, put: Put) -> None:
    put(tmp_path, "a/0.png")
    program = (
        "import sys; from data_prep.config import PrepareConfig; from data_prep.sources import open_source\n"
        f"print(len(list(open_source(PrepareConfig(source={str(tmp_path)!r}, output='x', domain='cat')))))\n"
        "print(sorted({'datasets', 'pyarrow', 'fsspec', 'torch', 'PIL'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert run.stdout.split("\n")[:2] == ["1", "[]"]
