import json
import shutil
from pathlib import Path

import pytest
import torch
import webdataset

from data_prep.errors import DataError
from data_prep.shards.reader import ShardReader


def test_a_reader_returns_what_the_webdataset_library_returns(shared_dataset: Path) -> None:
    tars = sorted(str(path) for path in (shared_dataset / "train").glob("*.tar"))
    expected = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    reader = ShardReader(shared_dataset, "train")
    assert len(reader) == len(expected)
    for sample, other in zip(reader, expected, strict=True):
        assert (sample.key, sample.caption) == (other["__key__"], other["json"]["caption"])
        assert sample.identity == other["json"]["identity"]
        assert sample.pixels.dtype == torch.uint8
        assert torch.equal(sample.pixels, torch.tensor(other["png"]).permute(2, 0, 1))


def test_samples_can_be_read_by_index(shared_dataset: Path) -> None:
    reader = ShardReader(shared_dataset, "test")
    in_order = list(reader)
    assert [reader[index].key for index in reversed(range(len(reader)))] == [s.key for s in reversed(in_order)]
    for index in (-1, len(reader)):
        with pytest.raises(IndexError):
            reader[index]


@pytest.mark.parametrize("damage", ["tar is gone", "tar is cut", "tar is noise", "index is gone", "index is short"])
def test_a_damaged_shard_is_named_with_the_command_to_run(shared_dataset: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(shared_dataset, tmp_path / "copy")
    tar = tmp_path / "copy" / "train" / "train-000001.tar"
    index = tar.with_suffix(".json")
    if damage == "tar is gone":
        tar.unlink()
    elif damage == "tar is cut":
        tar.write_bytes(tar.read_bytes()[:600])
    elif damage == "tar is noise":
        tar.write_bytes(bytes(range(256)) * (tar.stat().st_size // 256))
    elif damage == "index is gone":
        index.unlink()
    else:
        data = json.loads(index.read_text())
        data["members"].popitem()
        index.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"^shard .*train-000001.tar.*`e4t prepare") as caught:
        list(ShardReader(tmp_path / "copy", "train"))
    assert "\n" not in str(caught.value)
