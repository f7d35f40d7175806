import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.plan import PlannedShard
from data_prep.prepare.shard_writer import draft_path, load_if_current, write_draft
from data_prep.shards.shard_index import ShardIndex
from data_prep.sources import open_source
from data_prep.storage.atomic import sha256_file
from data_prep.storage.store import Store

ConfigFor = Callable[..., PrepareConfig]


@pytest.fixture
def shard(pictures: Path, config_for: ConfigFor) -> PlannedShard:
    """Four pictures of one cat and one file that is no picture; one name is longer than old tars can hold."""
    folder = pictures / "cat00"
    (folder / "9.png").write_text("no picture")
    (folder / "3.png").rename(folder / f"{'x' * 120}.png")
    records = [item for item in open_source(config_for()) if item.key.startswith("cat00")]
    return PlannedShard(name="train-000000", records=tuple(records))  # type: ignore[arg-type]


@pytest.fixture
def store(config_for: ConfigFor) -> Store:
    return Store(config_for().output)


@pytest.fixture
def write(shard: PlannedShard, store: Store, config_for: ConfigFor) -> Callable[[], ShardIndex]:
    config = config_for(caption_template="naïve {domain}")
    return lambda: write_draft(shard, open_source(config), config, store)


@pytest.fixture
def tar(store: Store) -> Path:
    return Path(store.url) / draft_path("train-000000")


def test_webdataset_itself_reads_a_shard(shard: PlannedShard, tar: Path, write: Callable[[], ShardIndex]) -> None:
    sidecar = write()
    samples: list[dict[str, Any]] = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [r.key for r in shard.records if not r.key.endswith("__9")]
    assert samples[0]["png"].shape == (16, 16, 3)
    assert samples[1]["json"] == {
        "domain": "cat",
        "identity": "cat00",
        "caption": "naïve cat",
        "source": "cat00/1.png",
        "original_size": [24, 20],
        "sha256": sidecar.sample_stats["cat00__1"].sha256,
        "crop_box": [2, 0, 22, 20],
        "scores": {},
        "columns": {},
    }


def test_the_sidecar_says_where_every_member_lies(store: Store, tar: Path, write: Callable[[], ShardIndex]) -> None:
    sidecar = write()
    assert ShardIndex.load(store, draft_path("train-000000")).members.keys() == sidecar.members.keys()
    data = tar.read_bytes()
    with tarfile.open(tar) as opened:
        for key, parts in sidecar.members.items():
            for extension, (offset, size) in parts.items():
                member = opened.extractfile(f"{key}.{extension}")
                assert member is not None
                assert member.read() == data[offset : offset + size]
    offset, size = sidecar.members["cat00__1"]["png"]
    assert np.asarray(Image.open(io.BytesIO(data[offset : offset + size]))).shape == (16, 16, 3)


def test_the_sidecar_counts_what_was_kept_and_what_was_not(tar: Path, write: Callable[[], ShardIndex]) -> None:
    sidecar = write()
    assert (sidecar.samples, sidecar.reject_counts) == (4, {"not an image": 1})
    assert sidecar.rejects == [{"key": "cat00__9", "source": "cat00/9.png", "reason": "not an image"}]
    assert (sidecar.sha256, sidecar.bytes) == (sha256_file(tar), tar.stat().st_size)


def test_the_sidecar_sums_up_the_pictures_in_numbers(write: Callable[[], ShardIndex]) -> None:
    assert write().statistics["width"].summary() == {"mean": 24, "std": 0, "min": 24, "max": 24}


def test_members_have_no_time_and_no_owner(tar: Path, write: Callable[[], ShardIndex]) -> None:
    write()
    with tarfile.open(tar) as opened:
        assert {(info.mtime, info.uid, info.gid, info.uname, info.gname) for info in opened} == {(0, 0, 0, "", "")}


def test_a_file_that_is_gone_by_now_is_kept_out_as_unreadable(
    pictures: Path, shard: PlannedShard, write: Callable[[], ShardIndex]
) -> None:
    (pictures / "cat00" / "1.png").unlink()
    assert write().reject_counts == {"not an image": 1, "unreadable": 1}


@pytest.mark.parametrize("harm", ["none", "tar is gone", "tar is cut", "sidecar is gone", "sidecar is cut", "other"])
def test_only_a_whole_shard_of_the_same_making_is_finished(
    shard: PlannedShard, store: Store, tar: Path, write: Callable[[], ShardIndex], harm: str
) -> None:
    first, sidecar = write(), tar.with_suffix(".json")
    if harm == "tar is gone":
        tar.unlink()
    elif harm == "tar is cut":
        tar.write_bytes(tar.read_bytes()[:-512])
    elif harm == "sidecar is gone":
        sidecar.unlink()
    elif harm == "sidecar is cut":
        sidecar.write_text(sidecar.read_text()[:100])
    elif harm == "other":
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"config_digest": "another"}))
    found = load_if_current(store, draft_path(shard.name), first.config_digest, shard.digest)
    assert (found is not None) == (harm == "none")


def test_a_sidecar_of_a_newer_e4t_is_refused(store: Store, tar: Path, write: Callable[[], ShardIndex]) -> None:
    write()
    sidecar = tar.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"version": 3}))
    with pytest.raises(DataError, match="newer e4t .*; upgrade e4t"):
        ShardIndex.load(store, draft_path("train-000000"))
