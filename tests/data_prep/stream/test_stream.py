import shutil
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.config import DataLoaderConfig
from data_prep.errors import DataError
from data_prep.shards.reader import ShardReader, to_float
from data_prep.stream.stream import Batch, ShardStream
from e4t_errors import ConfigError

QUICK = DataLoaderConfig(shuffle_window_shards=3, num_workers=0, prefetch=1)


def take(root: Path, batches: int, *, config: DataLoaderConfig = QUICK, **position: Any) -> list[Batch]:
    with ShardStream(root, "train", config=config, **position) as stream:
        return list(islice(stream, batches))


def keys_of(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def equal_batches(one: Batch, other: Batch) -> bool:
    tensors = torch.equal(one.tensors["pixels"], other.tensors["pixels"])
    return tensors and vars(one) | {"tensors": None} == vars(other) | {"tensors": None}


def test_each_sample_occurs_once_per_epoch_although_batches_span_epochs(shared_dataset: Path) -> None:
    size = len(ShardReader(shared_dataset, "train"))
    assert size % 7
    keys = keys_of(take(shared_dataset, -(-3 * size // 7), global_batch_size=7))
    everything = sorted(sample.key for sample in ShardReader(shared_dataset, "train"))
    epochs = [keys[epoch * size : (epoch + 1) * size] for epoch in range(3)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_ranks_together_get_the_batches_of_a_single_rank(shared_dataset: Path, world: int) -> None:
    alone = take(shared_dataset, 8, global_batch_size=6)
    ranks = [take(shared_dataset, 8, global_batch_size=6, rank=rank, world_size=world) for rank in range(world)]
    for number, whole in enumerate(alone):
        parts = [rank[number] for rank in ranks]
        assert keys_of(parts) == whole.keys
        assert torch.equal(torch.cat([part.tensors["pixels"] for part in parts]), whole.tensors["pixels"])
        assert [index for part in parts for index in part.indices] == whole.indices
        assert {(part.samples_seen, part.epoch) for part in parts} == {(whole.samples_seen, whole.epoch)}


def test_a_resumed_stream_reads_no_shard_before_its_window(shared_dataset: Path, tmp_path: Path) -> None:
    size = len(ShardReader(shared_dataset, "train"))
    expected = take(shared_dataset, 2 * size, global_batch_size=1)[size + size // 2]
    shutil.copytree(shared_dataset, tmp_path / "copy")
    resumed = ShardStream(tmp_path / "copy", "train", global_batch_size=1, config=QUICK, samples_seen=size + size // 2)
    order, reader = resumed.sequence.orders[0], resumed.sequence.readers[0]
    needed = set(next(order.shards_from(*order.window_of(resumed.samples_seen))))
    for shard in set(range(len(reader.shards))) - needed:
        path = Path(reader.url(shard))
        path.unlink()
        path.with_suffix(".json").unlink()
    with resumed:
        assert equal_batches(next(resumed), expected)


@settings(max_examples=12, deadline=None)
@given(step=st.integers(0, 14), batch=st.sampled_from([4, 6, 12]), world=st.sampled_from([1, 2]))
def test_a_resumed_run_continues_seamlessly_with_another_world_size(
    shared_dataset: Path, step: int, batch: int, world: int
) -> None:
    sequence = keys_of(take(shared_dataset, 40, global_batch_size=4))
    rest = [
        take(shared_dataset, 2, global_batch_size=batch, samples_seen=4 * step, rank=rank, world_size=world)
        for rank in range(world)
    ]
    resumed = [key for parts in zip(*rest, strict=True) for key in keys_of(list(parts))]
    assert resumed == sequence[4 * step : 4 * step + 2 * batch]


def test_a_resumed_stream_returns_bitwise_equal_batches(shared_dataset: Path) -> None:
    config = DataLoaderConfig(shuffle_window_shards=3, num_workers=0, horizontal_flip=True)
    whole = take(shared_dataset, 12, global_batch_size=5, seed=3, config=config)
    resumed = take(shared_dataset, 5, global_batch_size=5, seed=3, config=config, samples_seen=whole[6].samples_seen)
    assert all(equal_batches(one, other) for one, other in zip(whole[7:], resumed, strict=True))


def test_workers_and_prefetching_do_not_change_the_batches(shared_dataset: Path) -> None:
    slow = take(
        shared_dataset,
        10,
        global_batch_size=5,
        config=DataLoaderConfig(shuffle_window_shards=3, num_workers=0, prefetch=1, horizontal_flip=True),
    )
    fast = take(
        shared_dataset,
        10,
        global_batch_size=5,
        config=DataLoaderConfig(shuffle_window_shards=3, num_workers=3, prefetch=7, horizontal_flip=True),
    )
    assert all(equal_batches(one, other) for one, other in zip(slow, fast, strict=True))


def test_a_batch_reports_samples_seen_and_epoch(shared_dataset: Path) -> None:
    size = len(ShardReader(shared_dataset, "train"))
    batches = take(shared_dataset, size // 4 + 2, global_batch_size=4)
    assert [batch.samples_seen for batch in batches] == [4 * (number + 1) for number in range(len(batches))]
    assert [batch.epoch for batch in batches] == [(batch.samples_seen - 1) // size for batch in batches]
    assert batches[2].indices == [8, 9, 10, 11]


def test_pixels_equal_the_stored_ones_and_to_float_scales_them_to_minus_one_to_one(shared_dataset: Path) -> None:
    stored = {sample.key: sample for sample in ShardReader(shared_dataset, "train")}
    (batch,) = take(shared_dataset, 1, global_batch_size=6)
    assert (batch.tensors["pixels"].shape, batch.tensors["pixels"].dtype) == ((6, 3, 16, 16), torch.uint8)
    images = to_float(batch.tensors["pixels"])
    assert torch.equal(images, torch.stack([stored[key].image for key in batch.keys]))
    assert (float(images.min()), float(images.max()), images.is_contiguous()) == (-1, 1, True)
    for key, identity, caption, pixels in zip(
        batch.keys, batch.identities, batch.captions, batch.tensors["pixels"], strict=True
    ):
        assert (identity, caption) == (stored[key].identity, stored[key].caption)
        assert torch.equal(pixels, stored[key].pixels)


def test_half_of_the_images_are_mirrored_and_different_ones_in_each_epoch(shared_dataset: Path) -> None:
    stored = {sample.key: sample.pixels for sample in ShardReader(shared_dataset, "train")}
    size = len(stored)
    config = DataLoaderConfig(shuffle_window_shards=3, num_workers=0, horizontal_flip=True)
    mirrored = []
    for batch in take(shared_dataset, 2, global_batch_size=size, config=config):
        flipped = set()
        for key, pixels in zip(batch.keys, batch.tensors["pixels"], strict=True):
            assert torch.equal(pixels, stored[key]) or torch.equal(pixels.flip(-1), stored[key])
            if not torch.equal(pixels, stored[key]):
                flipped.add(key)
        mirrored.append(flipped)
    assert all(size / 5 < len(flipped) < size * 4 / 5 for flipped in mirrored)
    assert mirrored[0] != mirrored[1]


def test_a_closed_stream_has_no_threads_and_can_continue(shared_dataset: Path) -> None:
    stream = ShardStream(shared_dataset, "train", global_batch_size=4, config=QUICK)
    first = next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shard-stream")]
    second = next(stream)
    stream.close()
    assert first.keys + second.keys == keys_of(take(shared_dataset, 2, global_batch_size=4))


def test_a_missing_shard_ends_the_stream_and_is_named(shared_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_dataset, tmp_path / "copy")
    (tmp_path / "copy" / "train" / "train-000002.tar").unlink()
    with pytest.raises(DataError, match="train-000002.tar is missing; run `e4t prepare --verify`"):
        take(tmp_path / "copy", 20, global_batch_size=4)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shard-stream")]


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ({"global_batch_size": 7, "world_size": 2}, "cannot be divided among 2 ranks; give a multiple of 2"),
        ({"global_batch_size": 0}, "cannot be divided"),
        ({"global_batch_size": 4, "world_size": 2, "rank": 2}, "rank 2 is not one of 2 ranks"),
        ({"global_batch_size": 4, "samples_seen": -1}, "must be at least 0"),
    ],
)
def test_invalid_positions_are_refused(shared_dataset: Path, position: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ShardStream(shared_dataset, "train", **position)
