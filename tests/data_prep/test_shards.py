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
from data_prep.files import sha256_of
from data_prep.shards import ShardPlan, finished, write_shard
from data_prep.sidecar import Sidecar
from data_prep.survey import Entry

ConfigFor = Callable[..., PrepareConfig]


@pytest.fixture
def plan(pictures: Path, tmp_path: Path) -> ShardPlan:
    """Four pictures of one cat and one file that is no picture; one name is longer than old tars can hold."""
    folder = pictures / "cat00"
    (folder / "9.png").write_text("no picture")
    (folder / "3.png").rename(folder / f"{'x' * 120}.png")
    return ShardPlan(
        path=tmp_path / "set" / "train" / "train-000000.tar",
        entries=tuple(
            Entry(
                key=f"cat00__{path.stem}",
                identity="cat00",
                source=f"cat00/{path.name}",
                caption=f"naïve cat {path.stem[:1]}",
                sha256=sha256_of(path),
            )
            for path in sorted(folder.glob("*.png"))
        ),
    )


def test_webdataset_itself_reads_a_shard(plan: ShardPlan, config_for: ConfigFor) -> None:
    write_shard(plan, config_for())
    dataset = webdataset.WebDataset(str(plan.path), shardshuffle=False).decode("rgb8")
    samples: list[dict[str, Any]] = list(dataset)
    assert [sample["__key__"] for sample in samples] == [e.key for e in plan.entries if not e.key.endswith("__9")]
    assert samples[0]["png"].shape == (16, 16, 3)
    assert samples[0]["json"] == {
        "concept": "cat",
        "identity": "cat00",
        "caption": "naïve cat 0",
        "source": "cat00/0.png",
        "original_size": [24, 20],
        "sha256": plan.entries[0].sha256,
        "crop_box": [2, 0, 22, 20],
    }


def test_the_sidecar_says_where_every_member_lies(plan: ShardPlan, config_for: ConfigFor) -> None:
    sidecar = write_shard(plan, config_for())
    assert Sidecar.load(plan.path).members.keys() == sidecar.members.keys()
    data = plan.path.read_bytes()
    with tarfile.open(plan.path) as tar:
        for key, parts in sidecar.members.items():
            for extension, (offset, size) in parts.items():
                member = tar.extractfile(f"{key}.{extension}")
                assert member is not None
                assert member.read() == data[offset : offset + size]
    offset, size = sidecar.members["cat00__1"]["png"]
    assert np.asarray(Image.open(io.BytesIO(data[offset : offset + size]))).shape == (16, 16, 3)


def test_the_sidecar_counts_what_was_kept_and_what_was_not(plan: ShardPlan, config_for: ConfigFor) -> None:
    sidecar = write_shard(plan, config_for())
    assert (sidecar.samples, sidecar.dropped) == (4, {"not a picture": 1})
    assert sidecar.rejects == [{"key": "cat00__9", "source": "cat00/9.png", "reason": "not a picture"}]
    assert (sidecar.sha256, sidecar.bytes) == (sha256_of(plan.path), plan.path.stat().st_size)


def test_members_have_no_time_and_no_owner(plan: ShardPlan, config_for: ConfigFor) -> None:
    write_shard(plan, config_for())
    with tarfile.open(plan.path) as tar:
        assert {(info.mtime, info.uid, info.gid, info.uname, info.gname) for info in tar} == {(0, 0, 0, "", "")}


def test_a_finished_shard_is_left_alone(plan: ShardPlan, config_for: ConfigFor) -> None:
    first = write_shard(plan, config_for())
    before = plan.path.stat().st_mtime_ns
    again = write_shard(plan, config_for())
    assert (again.sha256, plan.path.stat().st_mtime_ns) == (first.sha256, before)


@pytest.mark.parametrize("harm", ["tar is gone", "tar is cut", "sidecar is gone", "sidecar is cut", "other config"])
def test_a_shard_that_is_not_whole_is_made_again_with_the_same_bytes(
    plan: ShardPlan, config_for: ConfigFor, harm: str
) -> None:
    first = write_shard(plan, config_for())
    sidecar, config = plan.path.with_suffix(".json"), config_for()
    if harm == "tar is gone":
        plan.path.unlink()
    elif harm == "tar is cut":
        plan.path.write_bytes(plan.path.read_bytes()[:-512])
    elif harm == "sidecar is gone":
        sidecar.unlink()
    elif harm == "sidecar is cut":
        sidecar.write_text(sidecar.read_text()[:100])
    else:
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"config_digest": "another"}))
    assert finished(plan, config) is None
    assert write_shard(plan, config).sha256 == first.sha256
    assert sha256_of(plan.path) == first.sha256


def test_a_picture_that_changes_after_the_plan_is_an_error_and_leaves_no_shard(
    plan: ShardPlan, config_for: ConfigFor, pictures: Path, draw: Callable[..., Image.Image]
) -> None:
    draw(99).save(pictures / "cat00" / "1.png")
    with pytest.raises(DataError, match="cat00/1.png in .* changed while shards were written; rerun"):
        write_shard(plan, config_for())
    assert not plan.path.exists()


def test_an_output_that_cannot_be_written_is_one_clear_error(plan: ShardPlan, config_for: ConfigFor) -> None:
    plan.path.parent.parent.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot be written .*; make room"):
        write_shard(plan, config_for())


def test_a_sidecar_of_a_newer_e4t_is_refused(plan: ShardPlan, config_for: ConfigFor) -> None:
    write_shard(plan, config_for())
    sidecar = plan.path.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"version": 2}))
    with pytest.raises(DataError, match="newer e4t .*; upgrade e4t"):
        Sidecar.load(plan.path)
