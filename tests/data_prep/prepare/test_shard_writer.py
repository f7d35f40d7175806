import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
import xxhash
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.errors import DataError, SourceChangedError
from data_prep.prepare.plan import PlannedShard
from data_prep.prepare.shard_writer import draft_path, load_if_current, write_draft
from data_prep.records import Reject
from data_prep.shards.shard_index import ShardIndex
from data_prep.sources import open_source
from data_prep.storage.atomic import sha256_file
from data_prep.storage.store import Store

ConfigFor = Callable[..., PrepareConfig]


@pytest.fixture
def shard(images: Path, config_for: ConfigFor) -> PlannedShard:
    """Four images of one cat and one file that is not an image; one name is longer than the ustar format allows."""
    folder = images / "cat00"
    (folder / "9.png").write_text("not an image")
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


def test_the_webdataset_library_reads_a_shard(shard: PlannedShard, tar: Path, write: Callable[[], ShardIndex]) -> None:
    index = write()
    samples: list[dict[str, Any]] = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [r.key for r in shard.records if not r.key.endswith("__9")]
    assert samples[0]["png"].shape == (16, 16, 3)
    assert samples[1]["json"] == {
        "domain": "cat",
        "identity": "cat00",
        "caption": "naïve cat",
        "source": "cat00/1.png",
        "original_size": [24, 20],
        "sha256": index.sample_stats["cat00__1"].sha256,
        "crop_box": [2, 0, 22, 20],
        "scores": {},
        "columns": {},
    }


def test_the_index_holds_location_and_checksum_of_every_member(
    store: Store, tar: Path, write: Callable[[], ShardIndex]
) -> None:
    index = write()
    assert ShardIndex.load(store, draft_path("train-000000")).members.keys() == index.members.keys()
    data = tar.read_bytes()
    with tarfile.open(tar) as archive:
        for key, parts in index.members.items():
            for extension, (offset, size, digest) in parts.items():
                member = archive.extractfile(f"{key}.{extension}")
                assert member is not None
                assert member.read() == data[offset : offset + size]
                assert (
                    digest == xxhash.xxh3_64(f"{key}.{extension}".encode() + data[offset : offset + size]).hexdigest()
                )
    offset, size, _ = index.members["cat00__1"]["png"]
    assert np.asarray(Image.open(io.BytesIO(data[offset : offset + size]))).shape == (16, 16, 3)


def test_the_index_counts_kept_and_rejected_images(tar: Path, write: Callable[[], ShardIndex]) -> None:
    index = write()
    assert (index.samples, index.reject_counts) == (4, {"not an image": 1})
    assert index.rejects == [Reject(key="cat00__9", source="cat00/9.png", reason="not an image")]
    assert (index.sha256, index.bytes) == (sha256_file(tar), tar.stat().st_size)


def test_the_index_summarizes_the_images_in_statistics(write: Callable[[], ShardIndex]) -> None:
    assert write().statistics["width"].summary() == {"mean": 24, "std": 0, "min": 24, "max": 24}


def test_members_have_no_time_and_no_owner(tar: Path, write: Callable[[], ShardIndex]) -> None:
    write()
    with tarfile.open(tar) as archive:
        assert {(info.mtime, info.uid, info.gid, info.uname, info.gname) for info in archive} == {(0, 0, 0, "", "")}


def test_a_file_that_was_deleted_meanwhile_is_an_error_and_leaves_no_shard(
    images: Path, tar: Path, shard: PlannedShard, write: Callable[[], ShardIndex]
) -> None:
    (images / "cat00" / "1.png").unlink()
    with pytest.raises(SourceChangedError, match=r"cat00/1.png was changed since it was listed"):
        write()
    assert not tar.exists()


@pytest.mark.parametrize("damage", ["none", "tar is gone", "tar is cut", "index is gone", "index is cut", "other"])
def test_only_a_complete_shard_of_the_same_configuration_is_current(
    shard: PlannedShard, store: Store, tar: Path, write: Callable[[], ShardIndex], damage: str
) -> None:
    first, index = write(), tar.with_suffix(".json")
    if damage == "tar is gone":
        tar.unlink()
    elif damage == "tar is cut":
        tar.write_bytes(tar.read_bytes()[:-512])
    elif damage == "index is gone":
        index.unlink()
    elif damage == "index is cut":
        index.write_text(index.read_text()[:100])
    elif damage == "other":
        index.write_text(json.dumps(json.loads(index.read_text()) | {"config_digest": "another"}))
    current = load_if_current(store, draft_path(shard.name), first.config_digest, shard.digest)
    assert (current is not None) == (damage == "none")


def test_an_index_of_a_newer_e4t_is_refused(store: Store, tar: Path, write: Callable[[], ShardIndex]) -> None:
    write()
    index = tar.with_suffix(".json")
    index.write_text(json.dumps(json.loads(index.read_text()) | {"version": 4}))
    with pytest.raises(DataError, match="newer e4t .*; upgrade e4t"):
        ShardIndex.load(store, draft_path("train-000000"))
