"""Streaming local datasets with damaged or missing shards."""

import io
import os
import shutil
import signal
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from data_prep.config import DataLoaderConfig
from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardReader
from data_prep.shards.shard_index import ShardIndex
from data_prep.storage.store import Store
from data_prep.stream.stream import Batch, ShardStream
from tests.data_prep.damage import drop_checksums, edit_json, flip_bit

MakeLoaderConfig = Callable[..., DataLoaderConfig]
SHARD = "train/train-000002.tar"


@pytest.fixture
def copy(shared_dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(shared_dataset, tmp_path / "copy")
    return tmp_path / "copy"


def take(root: Path, batches: int, config: DataLoaderConfig, **position: Any) -> list[Batch]:
    with ShardStream(root, "train", config=config, **{"global_batch_size": 4} | position) as stream:
        return list(islice(stream, batches))


def members(root: Path, tar: str = SHARD) -> dict[str, tuple[int, int]]:
    """Return offset and size of the images by key."""
    return {key: parts["png"][:2] for key, parts in ShardIndex.load(Store(str(root)), tar).members.items()}


def overwrite(root: Path, key: str, data: bytes) -> None:
    """Overwrite the first bytes of an image."""
    offset, size = members(root)[key]
    with (root / SHARD).open("r+b") as file:
        file.seek(offset)
        file.write(data[:size])


def skipped_of(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.skipped]


def test_an_image_that_cannot_be_decoded_ends_the_stream_and_is_named(
    copy: Path, loader_config: MakeLoaderConfig
) -> None:
    key = list(members(copy))[1]
    overwrite(copy, key, bytes(5000))
    with pytest.raises(DataError, match=rf"^shard .*{SHARD}: sample {key} cannot be read .*`e4t prepare --verify`"):
        take(copy, 20, loader_config())


def test_an_inverted_bit_ends_the_stream_and_the_sample_is_named(copy: Path, loader_config: MakeLoaderConfig) -> None:
    key = list(members(copy))[0]
    offset, size = members(copy)[key]
    flip_bit(copy / SHARD, offset + size // 2)
    with pytest.raises(DataError, match=f"sample {key} cannot be read .png: its bytes are not those that were written"):
        take(copy, 20, loader_config())


@pytest.mark.parametrize("extension", ["png", "json"])
def test_members_that_were_exchanged_are_noticed(copy: Path, loader_config: MakeLoaderConfig, extension: str) -> None:
    first, second, *_ = ShardIndex.load(Store(str(copy)), SHARD).members.values()
    size = min(first[extension].size, second[extension].size)
    data = bytearray((copy / SHARD).read_bytes())
    one, other = (slice(parts[extension].offset, parts[extension].offset + size) for parts in (first, second))
    data[one], data[other] = data[other], data[one]
    (copy / SHARD).write_bytes(data)
    batches = take(copy, len(ShardReader(copy, "train")) // 4 + 1, loader_config(on_error="skip"))
    assert {*list(members(copy))[:2]} <= {*skipped_of(batches)}


def test_entries_of_the_index_that_were_exchanged_are_noticed(copy: Path, loader_config: MakeLoaderConfig) -> None:
    def exchange_keys(index: dict[str, Any]) -> None:
        first, second, *others = index["members"].items()
        index["members"] = dict([(second[0], first[1]), (first[0], second[1]), *others])

    keys = list(members(copy))
    edit_json((copy / SHARD).with_suffix(".json"), exchange_keys)
    batches = take(copy, len(ShardReader(copy, "train")) // 4 + 1, loader_config(on_error="skip"))
    assert {*keys[:2]} <= {*skipped_of(batches)}


def test_a_dataset_without_checksums_is_read(copy: Path, shared_dataset: Path, loader_config: MakeLoaderConfig) -> None:
    drop_checksums(copy)
    assert [batch.keys for batch in take(copy, 6, loader_config())] == [
        batch.keys for batch in take(shared_dataset, 6, loader_config())
    ]


def test_an_image_of_the_wrong_size_is_an_error(copy: Path, loader_config: MakeLoaderConfig) -> None:
    drop_checksums(copy)
    key = list(members(copy))[1]
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "png")
    overwrite(copy, key, buffer.getvalue())
    with pytest.raises(DataError, match=f"sample {key} cannot be read .the image has 8 x 8 pixels, not 16 x 16"):
        take(copy, 20, loader_config())


def test_a_damaged_image_is_skipped_and_replaced_by_the_next_one(copy: Path, loader_config: MakeLoaderConfig) -> None:
    size = len(ShardReader(copy, "train"))
    whole = take(copy, 2 * size // 4, loader_config())
    sequence = [key for batch in whole for key in batch.keys]
    key = list(members(copy))[1]
    overwrite(copy, key, bytes(5000))
    batches = take(copy, 2 * size // 4, loader_config(on_error="skip"))
    first = sequence.index(key)
    expected = [sequence[position + 1] if each == key else each for position, each in enumerate(sequence)]
    assert [each for batch in batches for each in batch.keys][: size + first] == expected[: size + first]
    assert skipped_of(batches) == [key] * sequence.count(key)
    assert [batch.indices for batch in batches] == [batch.indices for batch in whole]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_replacement_does_not_depend_on_the_number_of_ranks(
    copy: Path, loader_config: MakeLoaderConfig, world: int
) -> None:
    (copy / SHARD).unlink()
    config = loader_config(on_error="skip")
    ranks = [take(copy, 8, config, rank=rank, world_size=world) for rank in range(world)]
    together = [[key for part in parts for key in part.keys] for parts in zip(*ranks, strict=True)]
    assert together == [batch.keys for batch in take(copy, 8, config)]


def test_only_the_missing_samples_of_a_truncated_shard_are_skipped(copy: Path, loader_config: MakeLoaderConfig) -> None:
    first, second, *_ = members(copy).values()
    os.truncate(copy / SHARD, second[0] + 10)
    size = len(ShardReader(copy, "train"))
    batches = take(copy, size // 4, loader_config(on_error="skip"))
    seen = {key for batch in batches for key in batch.keys}
    keys = list(members(copy))
    assert keys[0] in seen
    assert set(skipped_of(batches)) == set(keys[1:])


@pytest.mark.parametrize("damage", ["missing", "no index", "another's index"])
def test_the_samples_of_a_lost_shard_are_skipped_by_row(
    copy: Path, loader_config: MakeLoaderConfig, damage: str
) -> None:
    path = copy / SHARD
    if damage == "missing":
        path.unlink()
    elif damage == "no index":
        path.with_suffix(".json").unlink()
    else:
        shutil.copy(copy / "train" / "train-000001.json", path.with_suffix(".json"))
    size = len(ShardReader(copy, "train"))
    (batch,) = take(copy, 1, loader_config(on_error="skip"), global_batch_size=size)
    assert sorted(batch.skipped) == [f"{SHARD}[{row}]" for row in range(Manifest.load(copy).splits["train"][2].samples)]
    assert len(batch.keys) == size


def test_an_unreadable_dataset_ends_the_stream(copy: Path, loader_config: MakeLoaderConfig) -> None:
    for tar in (copy / "train").glob("*.tar"):
        tar.unlink()
    with pytest.raises(DataError, match=r"32 consecutive samples cannot be read; the last error: shard .* is missing"):
        take(copy, 1, loader_config(on_error="skip"))


def test_a_killed_decoder_is_replaced(shared_dataset: Path, loader_config: MakeLoaderConfig) -> None:
    expected = take(shared_dataset, 6, loader_config())
    with ShardStream(
        shared_dataset, "train", global_batch_size=4, config=loader_config(num_workers=1, prefetch=1)
    ) as stream:
        batches = [next(stream)]
        (decoder,) = stream._loader._buffer.decoders
        os.kill(decoder._process.pid, signal.SIGKILL)
        batches += list(islice(stream, 5))
    for batch, other in zip(batches, expected, strict=True):
        assert (batch.keys, torch.equal(batch.tensors["pixels"], other.tensors["pixels"])) == (other.keys, True)


def test_decoders_end_with_the_stream_and_survive_signals_to_the_process_group(
    shared_dataset: Path, loader_config: MakeLoaderConfig
) -> None:
    stream = ShardStream(shared_dataset, "train", global_batch_size=4, config=loader_config(num_workers=1))
    next(stream)
    (decoder,) = stream._loader._buffer.decoders
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(decoder._process.pid, number)
    list(islice(stream, 4))
    assert decoder._process.poll() is None
    stream.close()
    assert decoder._process.poll() is not None
