import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.records import Record
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
        ("set-{0..4}.zip", "archive"),
        ("list.csv", "table"),
        ("list.csv.gz", "table"),
        ("list.jsonl", "table"),
        ("https://host/list.txt", "table"),
        ("list-*.ndjson.xz", "table"),
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


@pytest.mark.parametrize(
    ("names", "source_type"),
    [
        (["0.jpg", "0.json", "1.jpg"], "shards"),
        (["._0.jpg", "0.txt", "0.jpg"], "shards"),
        (["0.cls", "0.png"], "shards"),
        (["0.jpg", "1.jpg"], "archive"),
        (["a/0.jpg", "a/0.txt"], "archive"),
        (["0.jpg", "readme.txt"], "archive"),
        ([], "archive"),
    ],
)
def test_tars_with_metadata_beside_their_images_are_shards(
    names: list[str], source_type: str, tmp_path: Path, config_of: ConfigOf
) -> None:
    for shard in ("0.tar", "1.tar"):
        with tarfile.open(tmp_path / shard, "w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
    for source in (tmp_path, tmp_path / "0.tar", f"{tmp_path}/*.tar"):
        assert detect_type(config_of(source)) == source_type
        assert detect_type(config_of(source, pattern="{identity}")) == "archive"
    (tmp_path / "2.zip").write_bytes(b"")
    assert detect_type(config_of(tmp_path)) == "archive"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("set.tar.zst", "is packed in a form that cannot be read; repack it as .zip, .tar or .tar.gz"),
        ("set.7z", "is packed in a form"),
        ("set.rar", "is packed in a form"),
        ("list.csv.zst", "is packed in a form"),
        ("cat.JPG", "is a single image; give the folder that it is in as data.source"),
        ("notes.pdf", "is a file of another kind; give a folder, an archive"),
        ("list.json", "is a file of another kind"),
        ("data", "is a file of another kind"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(
    name: str, message: str, tmp_path: Path, write_files: WriteFiles, config_of: ConfigOf
) -> None:
    write_files(tmp_path, name)
    with pytest.raises(DataError, match=f"{name} {message}"):
        detect_type(config_of(tmp_path / name))


def test_a_url_with_a_query_is_refused_with_what_to_do(config_of: ConfigOf) -> None:
    with pytest.raises(DataError, match=r"set.zip\?download=1 has a query after the name of the file"):
        detect_type(config_of("https://host/set.zip?download=1"))


def test_a_pattern_of_images_is_refused_with_what_to_do(config_of: ConfigOf) -> None:
    with pytest.raises(DataError, match=r"\*.jpg is a pattern of images; give their folder .* as data.read.include"):
        detect_type(config_of("images/*.jpg"))


@pytest.mark.parametrize("name", ["a{0..1}", "a*", "a[1]", "{x}", "~"])
def test_names_with_special_characters_are_taken_literally(
    name: str, tmp_path: Path, write_files: WriteFiles, config_of: ConfigOf
) -> None:
    def count(source: str) -> int:
        return sum(isinstance(item, Record) for item in open_source(config_of(source, pattern="{identity}")))

    write_files(tmp_path / name, "0.png", "1.png")
    (tmp_path / f"{name}.csv").write_text("image\n0.png\n")
    with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("0.png"))
    write_files(tmp_path / f"{name} archives")
    (tmp_path / f"{name} archives").mkdir(exist_ok=True)
    shutil.copy(tmp_path / f"{name}.tar", tmp_path / f"{name} archives")
    paths = (name, f"{name}.csv", f"{name}.tar", f"{name} archives", f"{name} archives/*.tar")
    assert [count(f"{tmp_path}/{path}") for path in paths] == [2, 1, 1, 1, 1]


def test_a_tilde_is_the_home_folder(
    tmp_path: Path, write_files: WriteFiles, config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "images", "a/0.png")
    (tmp_path / "list.csv").write_text("image\nimages/a/0.png\n")
    (tmp_path / "who.txt").write_text("a/0.png Ann\n")
    for source, options in (("~/images", {"identities": "~/who.txt"}), ("~/list.csv", {}), ("~/list*.csv", {})):
        opened = open_source(config_of(source, **options))
        (record,) = (item for item in opened if isinstance(item, Record))
        assert opened.read(record) == b"a/0.png"
    write_files(tmp_path / "~", "a/1.png")
    assert [item.source for item in open_source(config_of("~"))] == ["a/1.png"]


@pytest.mark.parametrize("source", ["nowhere", "nowhere.zip", "nowhere.csv", "nowhere/*.tar", "nowhere.7z", "fax://x"])
def test_a_missing_source_is_one_line(source: str, tmp_path: Path, config_of: ConfigOf) -> None:
    with pytest.raises(DataError) as raised:
        list(open_source(config_of(source if "://" in source else f"{tmp_path}/{source}")))
    assert source in str(raised.value)
    assert "\n" not in str(raised.value)


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
