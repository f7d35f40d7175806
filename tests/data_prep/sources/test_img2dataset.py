"""What img2dataset writes is read as it is."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.config import PrepareConfig
from data_prep.records import Ignored, Listed, Record, Reject
from data_prep.sources import open_source

ConfigOf = Callable[..., PrepareConfig]

KEYS = ("000000000", "000000001", "000000002")
FAILED = KEYS[1]
"""Image that could not be downloaded."""


def members() -> dict[str, bytes]:
    """Return the files of one shard, as img2dataset writes them."""
    files = dict[str, bytes]()
    for key in KEYS:
        if key != FAILED:
            metadata = {"caption": f"caption {key}", "url": f"http://host/{key}", "key": key, "status": "success"}
            files |= {f"{key}.jpg": key.encode(), f"{key}.txt": metadata["caption"].encode()}
            files[f"{key}.json"] = json.dumps(metadata | {"width": 256, "exif": "{}"}).encode()
    return files


@pytest.fixture(params=["webdataset", "files", "parquet"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The output folder for each ``output_format``."""
    folder = tmp_path / "laion"
    folder.mkdir()
    (folder / "00000_stats.json").write_text('{"count": 3, "successes": 2}')
    columns = {
        "url": [f"http://host/{key}" for key in KEYS],
        "caption": [f"caption {key}" for key in KEYS],
        "key": list(KEYS),
        "status": ["success" if key != FAILED else "failed_to_download" for key in KEYS],
    }
    if request.param == "webdataset":
        with tarfile.open(folder / "00000.tar", "w") as tar:
            for name, data in members().items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    elif request.param == "files":
        (folder / "00000").mkdir()
        [(folder / "00000" / name).write_bytes(data) for name, data in members().items()]
    else:
        columns["jpg"] = [key.encode() if key != FAILED else None for key in KEYS]
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "00000.parquet")
    return folder


def test_every_image_is_read_with_its_caption_as_an_identity_of_its_own(output: Path, config_of: ConfigOf) -> None:
    source = open_source(config_of(output))
    items: list[Listed] = list(source)
    records = [item for item in items if isinstance(item, Record)]
    assert [source.read(record).decode() for record in records] == [KEYS[0], KEYS[2]]
    assert [source.caption(record) for record in records] == [f"caption {KEYS[0]}", f"caption {KEYS[2]}"]
    assert len({record.identity for record in records}) == 2
    assert {item.reason for item in items if isinstance(item, Reject)} <= {"no image in row"}
    assert any("_stats.json" in item.source for item in items if isinstance(item, Ignored))
    assert {item.reason for item in items if isinstance(item, Ignored)} <= {
        "side table",
        "extension .json",
        "extension .parquet",
    }
