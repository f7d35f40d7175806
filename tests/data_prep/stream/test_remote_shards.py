"""Streaming datasets from remote stores."""

import fcntl
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from data_prep.config import DataLoaderConfig
from data_prep.errors import DataError, SampleReadError
from data_prep.shards.features import FeatureReader, write_features
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardReader
from data_prep.stream.stream import Batch, ShardStream
from e4t_errors import ConfigError
from tests.data_prep.damage import flip_bit
from tests.data_prep.flaky_server import FlakyServer, flaky_server

MakeLoaderConfig = Callable[..., DataLoaderConfig]
SHARD = "train/train-000001.tar"


def take(root: Path | str, batches: int, config: DataLoaderConfig, **position: Any) -> list[Batch]:
    with ShardStream(root, "train", config=config, global_batch_size=4, **position) as stream:
        return list(islice(stream, batches))


def equal_batches(some: list[Batch], others: list[Batch]) -> bool:
    plain = all(
        vars(one) | {"tensors": None} == vars(other) | {"tensors": None}
        for one, other in zip(some, others, strict=True)
    )
    return plain and all(
        torch.equal(one.tensors["pixels"], other.tensors["pixels"]) for one, other in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("kind", ["file", "memory", "http"])
def test_a_dataset_at_a_url_streams_like_one_in_a_folder(
    shared_dataset: Path, server: FlakyServer, loader_config: MakeLoaderConfig, kind: str
) -> None:
    url = {"file": shared_dataset.as_uri(), "memory": "memory://streamed", "http": server.url}[kind]
    if kind == "memory":
        fsspec.filesystem("memory").put(str(shared_dataset), "/streamed", recursive=True)
    assert equal_batches(
        take(url, 24, loader_config(horizontal_flip=True)),
        take(shared_dataset, 24, loader_config(horizontal_flip=True)),
    )


def test_a_shard_is_downloaded_once_for_all_processes_and_epochs(
    server: FlakyServer, loader_config: MakeLoaderConfig
) -> None:
    take(server.url, 24, loader_config(num_workers=2))
    take(server.url, 24, loader_config(num_workers=2, shuffle_window_shards=4))
    tars = {name: times for name, times in server.requests.items() if name.endswith(".tar")}
    assert tars == {f"train/{shard.name}": 1 for shard in Manifest.load(server.folder).shards("train")}


def test_shards_of_this_and_the_next_window_are_prefetched(
    server: FlakyServer, loader_config: MakeLoaderConfig
) -> None:
    config = loader_config(shuffle_window_shards=1, prefetch=1)
    with ShardStream(server.url, "train", config=config, global_batch_size=1) as stream:
        next(stream)
        needed = {stream.sequence.locate(index).shard for index in range(12)}
        following = sorted(needed, key=[stream.sequence.locate(index).shard for index in range(12)].index)[1]
        name = stream.sequence.readers[0].shards[following].name
        for _ in range(500):
            if name in server.requests:
                break
            torch.zeros(10_000).sort()  # give the other threads time
    assert stream.sequence.locate(1).shard != following
    assert server.requests[name] == 1


def test_a_cache_too_small_for_a_window_is_refused_at_once(
    server: FlakyServer, loader_config: MakeLoaderConfig
) -> None:
    with pytest.raises(ConfigError, match=r"stream.cache_max_bytes is 1000, but 3 shards .* give at least that"):
        take(server.url, 1, loader_config(cache_max_bytes=1000))


def cache_bytes(cache: Path) -> int:
    """Return the size of a cache in bytes, under its lock; a file that is renamed meanwhile counts once."""
    sizes = {}
    with (cache / "lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        for path in cache.glob("[0-9a-f]*"):
            with suppress(FileNotFoundError):
                sizes[path.stat().st_ino] = path.stat().st_size
    return sum(sizes.values())


def test_the_cache_stays_within_its_size_limit(
    server: FlakyServer, loader_config: MakeLoaderConfig, tmp_path: Path
) -> None:
    largest = sorted(shard.bytes for shard in Manifest.load(server.folder).shards("train"))
    limit = sum(largest[-3:])
    with ShardStream(server.url, "train", config=loader_config(cache_max_bytes=limit), global_batch_size=4) as stream:
        for _ in range(24):
            next(stream)
            assert cache_bytes(tmp_path / "cache") <= limit


@pytest.mark.parametrize("failure", ["500", "404", "cut", "short", "flipped", "hang"])
def test_a_store_that_fails_once_does_not_change_the_batches(
    shared_dataset: Path, server: FlakyServer, loader_config: MakeLoaderConfig, failure: str
) -> None:
    for name in ("manifest.json", "train/train-000000.json", SHARD):
        server.faults[name].extend([failure] if name == SHARD or failure not in ("flipped", "short") else [])
    assert equal_batches(take(server.url, 12, loader_config()), take(shared_dataset, 12, loader_config()))


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("500", r"sample train/train-000001.tar\[\d\] cannot be read \(500.*tried 3 times\)"),
        ("404", "is missing"),
        ("cut", "tried 3 times"),
        ("short", r"short read: \d+ of \d+ bytes; tried 3 times"),
        ("flipped", "its sha256 differs from the manifest's, 2 times"),
        ("hang", "no answer in 0.5 s; tried 3 times"),
    ],
)
def test_a_store_that_always_fails_ends_the_stream_with_a_one_line_error(
    server: FlakyServer, loader_config: MakeLoaderConfig, failure: str, message: str
) -> None:
    server.always[SHARD] = failure
    with pytest.raises(
        DataError, match=rf"^shard {server.url}/{SHARD}.*{message}.*run `e4t prepare --verify`"
    ) as caught:
        take(server.url, 12, loader_config())
    assert "\n" not in str(caught.value)


def test_a_shard_missing_from_the_store_is_skipped_and_counted(
    server: FlakyServer, loader_config: MakeLoaderConfig
) -> None:
    server.always[SHARD] = "404"
    size = len(ShardReader(server.folder, "train"))
    batches = take(server.url, size // 4, loader_config(on_error="skip", num_workers=2))
    skipped = [key for batch in batches for key in batch.skipped]
    assert sorted(skipped) == [f"{SHARD}[{row}]" for row in range(len(skipped))]
    assert len(skipped) == ShardReader(server.folder, "train").counts[1]
    assert all(len(batch.keys) == len(batch.tensors["pixels"]) == 4 for batch in batches)


def test_a_corrupt_cached_shard_is_fetched_again(
    server: FlakyServer, loader_config: MakeLoaderConfig, tmp_path: Path
) -> None:
    config = loader_config()
    reader = ShardReader(server.url, "train", config)
    expected = reader.read(1, 0)
    cached = tmp_path / "cache" / reader.shards[1].sha256
    cached.write_bytes(bytes(reader.shards[1].bytes))
    assert torch.equal(reader.read(1, 0).pixels, expected.pixels)
    cached.write_bytes(bytes(reader.shards[1].bytes))
    assert reader.metadata(1, 0).caption == expected.caption
    assert server.requests[SHARD] == 3


def test_corrupt_cached_features_are_fetched_again(
    shared_dataset: Path, loader_config: MakeLoaderConfig, tmp_path: Path
) -> None:
    shutil.copytree(shared_dataset, tmp_path / "set")
    write_features(str(tmp_path / "set"), "features", {}, lambda pixels: {"mean": pixels.mean((1, 2, 3))})
    name = "features/train/train-000001.safetensors"
    with flaky_server(tmp_path / "set") as server:
        features = FeatureReader(server.url, "features", "train", {}, loader_config())
        expected = features.read(1, 0, flipped=False)["mean"].clone()  # otherwise it is a view of the file
        (cached,) = (path for path in (tmp_path / "cache").iterdir() if path.stat().st_size > 64)
        flip_bit(cached, -4 * 2 * features._shards[1].samples)
        features._cached_shard.cache_clear()
        assert torch.equal(features.read(1, 0, flipped=False)["mean"], expected)
        assert server.requests[name] == 2


def test_features_at_a_url_stream_like_those_in_a_folder(
    shared_dataset: Path, loader_config: MakeLoaderConfig, tmp_path: Path
) -> None:
    shutil.copytree(shared_dataset, tmp_path / "set")
    fingerprint = {"model": "a"}
    write_features(str(tmp_path / "set"), "features", fingerprint, lambda pixels: {"mean": pixels.mean((1, 2, 3))})
    with flaky_server(tmp_path / "set") as server:
        server.faults["features/train/train-000001.safetensors"].extend(["500", "cut"])
        config = loader_config(horizontal_flip=True)
        batches = [
            take(root, 12, config, features=FeatureReader(root, "features", "train", fingerprint, config))
            for root in (str(tmp_path / "set"), server.url)
        ]
    for here, there in zip(*batches, strict=True):
        assert (here.keys, torch.equal(here.tensors["mean"], there.tensors["mean"])) == (there.keys, True)


def test_features_missing_from_the_store_are_named(
    shared_dataset: Path, loader_config: MakeLoaderConfig, tmp_path: Path
) -> None:
    shutil.copytree(shared_dataset, tmp_path / "set")
    write_features(str(tmp_path / "set"), "features", {}, lambda pixels: {"mean": pixels.mean((1, 2, 3))})
    with flaky_server(tmp_path / "set") as server:
        server.always["features/train/train-000001.safetensors"] = "500"
        features = FeatureReader(server.url, "features", "train", {}, loader_config())
        with pytest.raises(
            SampleReadError, match=r"features http.*train-000001.safetensors cannot be read .*`e4t cache`"
        ):
            features.read(1, 0, flipped=False)
