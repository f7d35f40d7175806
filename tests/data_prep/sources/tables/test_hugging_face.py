import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.records import Record, Reject
from data_prep.sources import open_source
from e4t_errors import ConfigError
from tests.data_prep.fault_server import fault_server

ConfigOf = Callable[..., PrepareConfig]
ReadAll = Callable[..., dict[str, bytes]]
ListItems = Callable[..., list[Record | Reject]]

ROWS = 7
IMAGES = [f"image {row}".encode() for row in range(ROWS)]
LAYOUTS = ["saved", "splits", "arrow", "parquet", "streamed parquet", "streamed arrow"]

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a temporary cache of the datasets library."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def dataset() -> datasets.Dataset:
    """Rows with one image each, except the fourth. Their bytes are not valid images, so decoding them would fail."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "who": datasets.ClassLabel(names=["Ann", "Bob"]),
            "text": datasets.Value("string"),
            "left": datasets.Value("int32"),
            "raw": datasets.Value("binary"),
            "points": datasets.List(datasets.Value("float32")),
        }
    )
    rows = {
        "image": [{"bytes": data, "path": f"{row}.png"} if row != 3 else None for row, data in enumerate(IMAGES)],
        "who": [row % 2 for row in range(ROWS)],
        "text": [f"number {row}" if row else None for row in range(ROWS)],
        "left": [*range(ROWS)],
        "raw": [b"x"] * ROWS,
        "points": [[0.5]] * ROWS,
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture
def source_of(dataset: datasets.Dataset, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Save the dataset in a layout and return the source with its options."""

    def build(layout: str) -> dict[str, Any]:
        settings = {"identity_column": "who", "caption_column": "text", "streaming": layout.startswith("streamed")}
        if layout == "splits":
            datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "splits")
            return {"source": tmp_path / "splits", **settings}
        if layout.endswith("parquet"):
            for shard in range(2):
                dataset.shard(2, shard).to_parquet(tmp_path / f"set-{shard}.parquet")
            return {"source": f"{tmp_path}/set-*.parquet", **settings}
        dataset.save_to_disk(tmp_path / "saved", num_shards=2)
        return {"source": tmp_path / "saved" if layout == "saved" else f"{tmp_path}/saved/*.arrow", **settings}

    return build


@every_layout
def test_a_row_is_an_image_with_its_columns(
    layout: str, source_of: Callable[[str], dict[str, Any]], list_items: ListItems
) -> None:
    items = list_items(**source_of(layout))
    assert [item.key for item in items] == [f"row-{row:09d}" for row in range(ROWS)]
    first, second = items[:2]
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.identity, first.caption, first.columns) == ("Ann", None, {"left": 0})
    assert (second.identity, second.caption, second.columns) == ("Bob", "number 1", {"left": 1})
    assert items[3] == Reject(key="row-000000003", source="row 3", reason="no image in row")


@every_layout
def test_threads_read_undecoded_files_in_any_order(
    layout: str, source_of: Callable[[str], dict[str, Any]], config_of: ConfigOf
) -> None:
    source = open_source(config_of(**source_of(layout)))
    records = [item for item in source if isinstance(item, Record)]
    with ThreadPoolExecutor(4) as pool:
        read = [*pool.map(source.read, records[::-1])][::-1]
    assert read == IMAGES[:3] + IMAGES[4:]


@every_layout
def test_a_pickled_source_lists_and_reads_the_same(
    layout: str, source_of: Callable[[str], dict[str, Any]], config_of: ConfigOf
) -> None:
    source = open_source(config_of(**source_of(layout)))
    records = [item for item in source if isinstance(item, Record)]
    source.read(records[0])
    unpickled = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own bytes
    assert [item for item in unpickled if isinstance(item, Record)] == records
    assert unpickled.read(records[5]) == IMAGES[6]


def test_without_an_identity_column_every_row_is_its_own_identity(
    source_of: Callable[[str], dict[str, Any]], list_items: ListItems
) -> None:
    record = list_items(source_of("saved")["source"])[1]
    assert isinstance(record, Record)
    assert (record.identity, record.columns["who"]) == (record.key, "Bob")


def test_images_may_be_plain_bytes_or_paths(
    tmp_path: Path, write_files: Callable[..., Path], read_all: ReadAll
) -> None:
    write_files(tmp_path, "images/0.png")
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"bytes alone"]}), tmp_path / "bytes.parquet")
    paths = [{"bytes": None, "path": "images/0.png"}, {"bytes": None, "path": f"{tmp_path}/images/0.png"}]
    pyarrow.parquet.write_table(
        pyarrow.table({"image": paths}, pyarrow.schema([("image", datasets.Image().pa_type)])),
        tmp_path / "paths.parquet",
    )
    assert list(read_all(tmp_path / "bytes.parquet").values()) == [b"bytes alone"]
    assert list(read_all(tmp_path / "paths.parquet").values()) == [b"images/0.png"] * 2


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_folder_is_loaded_by_the_datasets_library(
    tmp_path: Path, streaming: bool, write_files: Callable[..., Path], read_all: ReadAll
) -> None:
    write_files(tmp_path / "set", "train/Ann/0.png", "train/Bob/1.png")
    read = read_all(tmp_path / "set", type="datasets", streaming=streaming, identity_column="label")
    assert list(read.values()) == [b"train/Ann/0.png", b"train/Bob/1.png"]


@pytest.mark.parametrize("setting", ["image_column", "identity_column", "caption_column"])
def test_a_missing_column_is_one_clear_error(
    setting: str, source_of: Callable[[str], dict[str, Any]], list_items: ListItems
) -> None:
    with pytest.raises(
        ConfigError, match=f"no column 'nope'; set data.source_options.{setting} to one of image, who, text"
    ):
        list_items(**source_of("saved") | {setting: "nope"})


def test_a_missing_split_is_one_clear_error(source_of: Callable[[str], dict[str, Any]], list_items: ListItems) -> None:
    with pytest.raises(ConfigError, match="no split 'test'; set data.source_options.split: train"):
        list_items(**source_of("splits"), split="test")


@pytest.mark.parametrize("name", ["none.arrow", "none*.parquet"])
def test_a_missing_file_is_one_clear_error(tmp_path: Path, name: str, list_items: ListItems) -> None:
    with pytest.raises(DataError, match=r"no such file; give .parquet or .arrow as data.source"):
        list_items(tmp_path / name)


def test_a_corrupt_file_is_one_clear_error(tmp_path: Path, list_items: ListItems) -> None:
    (tmp_path / "bad.arrow").write_bytes(b"no arrow")
    with pytest.raises(
        DataError, match=r"bad.arrow cannot be loaded \(.*\); check data.source and data.source_options$"
    ):
        list_items(tmp_path / "bad.arrow")


def test_the_version_changes_with_the_data(tmp_path: Path, dataset: datasets.Dataset, list_items: ListItems) -> None:
    dataset.save_to_disk(tmp_path / "a")
    before = list_items(tmp_path / "a")
    dataset.select(range(ROWS)[::-1]).save_to_disk(tmp_path / "b")
    assert list_items(tmp_path / "a") == before
    assert list_items(tmp_path / "b")[0].version != before[0].version  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("column", "captions"),
    [
        ("texts", ["one", None]),
        ("meta.text", ["field", None]),
        ("sentences.raw", ["raw 0", None]),
        ("tags", ["red, blue", None]),
    ],
)
def test_the_caption_column_may_hold_lists_and_structs(
    column: str, captions: list[str | None], tmp_path: Path, list_items: ListItems
) -> None:
    text = datasets.Value("string")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "texts": datasets.List(text),
            "meta": {"text": text},
            "sentences": datasets.List({"raw": text}),
            "tags": datasets.List(datasets.ClassLabel(names=["red", "green", "blue"])),
        }
    )
    rows = {
        "image": [{"bytes": IMAGES[0], "path": None}] * 2,
        "texts": [["one"], []],
        "meta": [{"text": "field"}, {"text": None}],
        "sentences": [[{"raw": "raw 0"}], None],
        "tags": [[0, 2], []],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    items = list_items(tmp_path / "saved", caption_column=column, caption_choice="join")
    assert [(item.caption, item.columns) for item in items if isinstance(item, Record)] == [(c, {}) for c in captions]


def test_patterns_of_paths_are_refused_because_rows_have_none(config_of: ConfigOf) -> None:
    for read in ({"include": ("*.jpg",)}, {"exclude": ("*.jpg",)}):
        with pytest.raises(ConfigError, match="rows without paths"):
            open_source(config_of("hf://org/name", read=read))


@pytest.mark.long
@pytest.mark.parametrize("streaming", [False, True])
def test_the_answer_of_the_hub_is_named_as_the_cause(streaming: bool, tmp_path: Path) -> None:
    program = (
        "from data_prep.config import PrepareConfig, SourceConfig; from data_prep.sources import open_source\n"
        f"options = SourceConfig(streaming={streaming})\n"
        "list(open_source(PrepareConfig(source='hf://me/cats', output='x', domain='cat', source_options=options)))"
    )
    with fault_server() as server:
        server.choose = lambda _: "403"
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path)}  # read when it is imported
        command = [sys.executable, "-c", program]
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    assert "DataError: source hf://me/cats cannot be loaded (HTTP 403 Forbidden: " in run.stderr
