"""Streams of sets on this machine's disk that are not whole."""

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
from data_prep.shards.shard_index import ShardIndex
from data_prep.storage.store import Store
from data_prep.stream.stream import Batch, ShardReader, ShardStream

Settings = Callable[..., DataLoaderConfig]
SHARD = "train/train-000002.tar"


@pytest.fixture
def copy(shared_set: Path, tmp_path: Path) -> Path:
    shutil.copytree(shared_set, tmp_path / "copy")
    return tmp_path / "copy"


def take(root: Path, batches: int, config: DataLoaderConfig, **position: Any) -> list[Batch]:
    with ShardStream(root, "train", config=config, **{"global_batch_size": 4} | position) as stream:
        return list(islice(stream, batches))


def members(root: Path, tar: str = SHARD) -> dict[str, tuple[int, int]]:
    """Offset and size of the pictures, by key."""
    return {key: tuple(parts["png"]) for key, parts in ShardIndex.load(Store(str(root)), tar).members.items()}


def overwrite(root: Path, key: str, data: bytes) -> None:
    """Put other bytes in the place of a picture's first ones."""
    offset, size = members(root)[key]
    with (root / SHARD).open("r+b") as file:
        file.seek(offset)
        file.write(data[:size])


def skipped_of(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.skipped]


def test_a_picture_that_does_not_decode_ends_the_stream_with_its_name(copy: Path, patient: Settings) -> None:
    key = list(members(copy))[1]
    overwrite(copy, key, bytes(5000))
    with pytest.raises(DataError, match=rf"^shard .*{SHARD}: sample {key} cannot be read .*`e4t prepare --verify`"):
        take(copy, 20, patient())


def test_one_flipped_bit_in_a_picture_is_found_where_the_format_has_a_checksum(copy: Path, patient: Settings) -> None:
    key = list(members(copy))[0]
    offset, size = members(copy)[key]
    data = bytearray((copy / SHARD).read_bytes())
    data[offset + size // 2] ^= 1
    (copy / SHARD).write_bytes(data)
    with pytest.raises(DataError, match=f"sample {key} cannot be read"):
        take(copy, 20, patient())


def test_a_picture_of_another_size_is_damage(copy: Path, patient: Settings) -> None:
    key = list(members(copy))[1]
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "png")
    overwrite(copy, key, buffer.getvalue())
    with pytest.raises(DataError, match=f"sample {key} cannot be read .the image has 8 x 8 pixels, not 16 x 16"):
        take(copy, 20, patient())


def test_a_damaged_picture_is_skipped_and_the_next_one_stands_in(copy: Path, patient: Settings) -> None:
    size = len(ShardReader(copy, "train"))
    whole = take(copy, 2 * size // 4, patient())
    line = [key for batch in whole for key in batch.keys]
    key = list(members(copy))[1]
    overwrite(copy, key, bytes(5000))
    batches = take(copy, 2 * size // 4, patient(on_error="skip"))
    at = line.index(key)
    expected = [line[position + 1] if found == key else found for position, found in enumerate(line)]
    assert [found for batch in batches for found in batch.keys][: size + at] == expected[: size + at]
    assert skipped_of(batches) == [key] * line.count(key)
    assert [batch.indices for batch in batches] == [batch.indices for batch in whole]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_what_stands_in_does_not_depend_on_the_number_of_ranks(copy: Path, patient: Settings, world: int) -> None:
    (copy / SHARD).unlink()
    config = patient(on_error="skip")
    ranks = [take(copy, 8, config, rank=rank, world_size=world) for rank in range(world)]
    together = [[key for part in parts for key in part.keys] for parts in zip(*ranks, strict=True)]
    assert together == [batch.keys for batch in take(copy, 8, config)]


def test_of_a_truncated_shard_only_what_is_cut_off_is_skipped(copy: Path, patient: Settings) -> None:
    first, second, *_ = members(copy).values()
    os.truncate(copy / SHARD, second[0] + 10)
    size = len(ShardReader(copy, "train"))
    batches = take(copy, size // 4, patient(on_error="skip"))
    seen = {key for batch in batches for key in batch.keys}
    keys = list(members(copy))
    assert keys[0] in seen
    assert set(skipped_of(batches)) == set(keys[1:])


@pytest.mark.parametrize("harm", ["missing", "no sidecar", "another's sidecar"])
def test_a_lost_shard_is_skipped_under_its_rows(copy: Path, patient: Settings, harm: str) -> None:
    path = copy / SHARD
    if harm == "missing":
        path.unlink()
    elif harm == "no sidecar":
        path.with_suffix(".json").unlink()
    else:
        shutil.copy(copy / "train" / "train-000001.json", path.with_suffix(".json"))
    size = len(ShardReader(copy, "train"))
    (batch,) = take(copy, 1, patient(on_error="skip"), global_batch_size=size)
    assert sorted(batch.skipped) == [f"{SHARD}[{row}]" for row in range(Manifest.load(copy).splits["train"][2].samples)]
    assert len(batch.keys) == size


def test_a_set_of_which_nothing_can_be_read_ends_the_stream(copy: Path, patient: Settings) -> None:
    for tar in (copy / "train").glob("*.tar"):
        tar.unlink()
    with pytest.raises(DataError, match=r"32 consecutive samples cannot be read; the last error: shard .* is missing"):
        take(copy, 1, patient(on_error="skip"))


def test_a_decoder_that_is_killed_is_replaced(shared_set: Path, patient: Settings) -> None:
    expected = take(shared_set, 6, patient())
    with ShardStream(shared_set, "train", global_batch_size=4, config=patient(num_workers=1, prefetch=1)) as stream:
        batches = [next(stream)]
        (decoder,) = stream._loader._buffer.decoders
        os.kill(decoder._process.pid, signal.SIGKILL)
        batches += list(islice(stream, 5))
    for batch, other in zip(batches, expected, strict=True):
        assert (batch.keys, torch.equal(batch.tensors["pixels"], other.tensors["pixels"])) == (other.keys, True)


def test_decoders_end_with_the_stream_and_outlive_signals_to_the_whole_group(
    shared_set: Path, patient: Settings
) -> None:
    stream = ShardStream(shared_set, "train", global_batch_size=4, config=patient(num_workers=1))
    next(stream)
    (decoder,) = stream._loader._buffer.decoders
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(decoder._process.pid, number)
    list(islice(stream, 4))
    assert decoder._process.poll() is None
    stream.close()
    assert decoder._process.poll() is not None
