import pickle
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
from e4t import ConfigError

ConfigOf = Callable[..., PrepareConfig]
Fetched = Callable[..., dict[str, bytes]]
Listed = Callable[..., list[Record | Reject]]

ROWS = 7
PICTURES = [f"picture {row}".encode() for row in range(ROWS)]
LAYOUTS = ["saved", "splits", "arrow", "parquet", "streamed parquet", "streamed arrow"]

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's cache, away from the user's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def dataset() -> datasets.Dataset:
    """Rows with a picture each, but for the fourth; their bytes are no pictures, so whoever decodes them fails."""
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
        "image": [{"bytes": data, "path": f"{row}.png"} if row != 3 else None for row, data in enumerate(PICTURES)],
        "who": [row % 2 for row in range(ROWS)],
        "text": [f"number {row}" if row else None for row in range(ROWS)],
        "left": [*range(ROWS)],
        "raw": [b"x"] * ROWS,
        "points": [[0.5]] * ROWS,
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture
def source_of(dataset: datasets.Dataset, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """The dataset in a layout, as source and settings."""

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
def test_a_row_is_a_picture_with_its_columns(
    layout: str, source_of: Callable[[str], dict[str, Any]], listed: Listed
) -> None:
    items = listed(**source_of(layout))
    assert [item.key for item in items] == [f"row-{row:09d}" for row in range(ROWS)]
    first, second = items[:2]
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.identity, first.caption, first.columns) == ("Ann", None, {"left": 0})
    assert (second.identity, second.caption, second.columns) == ("Bob", "number 1", {"left": 1})
    assert items[3] == Reject(key="row-000000003", source="row 3", reason="no image in row")


@every_layout
def test_the_files_own_bytes_are_read_in_any_order_by_threads(
    layout: str, source_of: Callable[[str], dict[str, Any]], config_of: ConfigOf
) -> None:
    source = open_source(config_of(**source_of(layout)))
    records = [item for item in source if isinstance(item, Record)]
    with ThreadPoolExecutor(4) as pool:
        read = [*pool.map(source.read, records[::-1])][::-1]
    assert read == PICTURES[:3] + PICTURES[4:]


@every_layout
def test_a_source_that_was_pickled_lists_and_reads_the_same(
    layout: str, source_of: Callable[[str], dict[str, Any]], config_of: ConfigOf
) -> None:
    source = open_source(config_of(**source_of(layout)))
    records = [item for item in source if isinstance(item, Record)]
    source.read(records[0])
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own bytes
    assert [item for item in again if isinstance(item, Record)] == records
    assert again.read(records[5]) == PICTURES[6]


def test_without_a_column_for_it_every_row_is_its_own_identity(
    source_of: Callable[[str], dict[str, Any]], listed: Listed
) -> None:
    record = listed(source_of("saved")["source"])[1]
    assert isinstance(record, Record)
    assert (record.identity, record.columns["who"]) == (record.key, "Bob")


def test_pictures_may_be_bytes_alone_or_paths(tmp_path: Path, put: Callable[..., Path], fetched: Fetched) -> None:
    put(tmp_path, "pictures/0.png")
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"bytes alone"]}), tmp_path / "bytes.parquet")
    paths = [{"bytes": None, "path": "pictures/0.png"}, {"bytes": None, "path": f"{tmp_path}/pictures/0.png"}]
    pyarrow.parquet.write_table(
        pyarrow.table({"image": paths}, pyarrow.schema([("image", datasets.Image().pa_type)])),
        tmp_path / "paths.parquet",
    )
    assert list(fetched(tmp_path / "bytes.parquet").values()) == [b"bytes alone"]
    assert list(fetched(tmp_path / "paths.parquet").values()) == [b"pictures/0.png"] * 2


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_that_the_library_knows_is_loaded_by_it(
    tmp_path: Path, streaming: bool, put: Callable[..., Path], fetched: Fetched
) -> None:
    put(tmp_path / "set", "train/Ann/0.png", "train/Bob/1.png")
    read = fetched(tmp_path / "set", type="datasets", streaming=streaming, identity_column="label")
    assert list(read.values()) == [b"train/Ann/0.png", b"train/Bob/1.png"]


@pytest.mark.parametrize("setting", ["image_column", "identity_column", "caption_column"])
def test_a_column_that_is_not_there_is_one_clear_error(
    setting: str, source_of: Callable[[str], dict[str, Any]], listed: Listed
) -> None:
    with pytest.raises(
        ConfigError, match=f"no column 'nope'; set data.source_options.{setting} to one of image, who, text"
    ):
        listed(**source_of("saved") | {setting: "nope"})


def test_a_split_that_is_not_there_is_one_clear_error(
    source_of: Callable[[str], dict[str, Any]], listed: Listed
) -> None:
    with pytest.raises(ConfigError, match="no split 'test'; set data.source_options.split: train"):
        listed(**source_of("splits"), split="test")


@pytest.mark.parametrize("name", ["none.arrow", "none*.parquet"])
def test_a_missing_file_is_one_clear_error(tmp_path: Path, name: str, listed: Listed) -> None:
    with pytest.raises(DataError, match=r"no such file; give .parquet or .arrow as data.source"):
        listed(tmp_path / name)


def test_a_damaged_file_is_one_clear_error(tmp_path: Path, listed: Listed) -> None:
    (tmp_path / "bad.arrow").write_bytes(b"no arrow")
    with pytest.raises(
        DataError, match=r"bad.arrow cannot be loaded \(.*\); check data.source and data.source_options$"
    ):
        listed(tmp_path / "bad.arrow")


def test_the_stamp_changes_with_the_data(tmp_path: Path, dataset: datasets.Dataset, listed: Listed) -> None:
    dataset.save_to_disk(tmp_path / "a")
    before = listed(tmp_path / "a")
    dataset.select(range(ROWS)[::-1]).save_to_disk(tmp_path / "b")
    assert listed(tmp_path / "a") == before
    assert listed(tmp_path / "b")[0].version != before[0].version  # type: ignore[union-attr]
