"""Streams of sets that are not on this machine's disk."""

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
from data_prep.stream.stream import Batch, ShardReader, ShardStream
from e4t import ConfigError
from tests.data_prep.flaky_server import FlakyServer, flaky_server

Settings = Callable[..., DataLoaderConfig]
SHARD = "train/train-000001.tar"


def take(root: Path | str, batches: int, config: DataLoaderConfig, **position: Any) -> list[Batch]:
    with ShardStream(root, "train", config=config, global_batch_size=4, **position) as stream:
        return list(islice(stream, batches))


def same(some: list[Batch], others: list[Batch]) -> bool:
    plain = all(
        vars(one) | {"tensors": None} == vars(other) | {"tensors": None}
        for one, other in zip(some, others, strict=True)
    )
    return plain and all(
        torch.equal(one.tensors["pixels"], other.tensors["pixels"]) for one, other in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("kind", ["file", "memory", "http"])
def test_a_set_at_a_url_streams_as_it_does_from_a_folder(
    shared_set: Path, server: FlakyServer, patient: Settings, kind: str
) -> None:
    url = {"file": shared_set.as_uri(), "memory": "memory://streamed", "http": server.url}[kind]
    if kind == "memory":
        fsspec.filesystem("memory").put(str(shared_set), "/streamed", recursive=True)
    assert same(take(url, 24, patient(horizontal_flip=True)), take(shared_set, 24, patient(horizontal_flip=True)))


def test_a_shard_comes_once_however_many_processes_and_epochs_read_it(server: FlakyServer, patient: Settings) -> None:
    take(server.url, 24, patient(num_workers=2))
    take(server.url, 24, patient(num_workers=2, shuffle_window_shards=4))
    tars = {name: times for name, times in server.requests.items() if name.endswith(".tar")}
    assert tars == {f"train/{shard.name}": 1 for shard in Manifest.load(server.folder).shards("train")}


def test_shards_of_this_window_and_the_next_are_fetched_before_they_are_read(
    server: FlakyServer, patient: Settings
) -> None:
    config = patient(shuffle_window_shards=1, prefetch=1)
    with ShardStream(server.url, "train", config=config, global_batch_size=1) as stream:
        next(stream)
        needed = {stream.sequence.locate(index).shard for index in range(12)}
        following = sorted(needed, key=[stream.sequence.locate(index).shard for index in range(12)].index)[1]
        name = stream.sequence.readers[0].shards[following].name
        for _ in range(500):
            if name in server.requests:
                break
            torch.zeros(10_000).sort()  # the other threads' turn
    assert stream.sequence.locate(1).shard != following
    assert server.requests[name] == 1


def test_a_cache_too_small_for_a_window_is_refused_at_once(server: FlakyServer, patient: Settings) -> None:
    with pytest.raises(ConfigError, match=r"stream.cache_max_bytes is 1000, but 3 shards .* give at least that"):
        take(server.url, 1, patient(cache_max_bytes=1000))


def held(cache: Path) -> int:
    """Bytes in a cache, while it keeps still; a file that is renamed meanwhile counts once."""
    sizes = {}
    with (cache / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for path in cache.glob("[0-9a-f]*"):
            with suppress(FileNotFoundError):
                sizes[path.stat().st_ino] = path.stat().st_size
    return sum(sizes.values())


def test_the_cache_stays_within_its_bytes(server: FlakyServer, patient: Settings, tmp_path: Path) -> None:
    largest = sorted(shard.bytes for shard in Manifest.load(server.folder).shards("train"))
    limit = sum(largest[-3:])
    with ShardStream(server.url, "train", config=patient(cache_max_bytes=limit), global_batch_size=4) as stream:
        for _ in range(24):
            next(stream)
            assert held(tmp_path / "cache") <= limit


@pytest.mark.parametrize("fault", ["500", "404", "cut", "short", "flipped", "hang"])
def test_a_store_that_fails_now_and_then_changes_nothing(
    shared_set: Path, server: FlakyServer, patient: Settings, fault: str
) -> None:
    for name in ("manifest.json", "train/train-000000.json", SHARD):
        server.faults[name].extend([fault] if name == SHARD or fault not in ("flipped", "short") else [])
    assert same(take(server.url, 12, patient()), take(shared_set, 12, patient()))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", r"sample train/train-000001.tar\[\d\] cannot be read \(500.*tried 3 times\)"),
        ("404", "is missing"),
        ("cut", "tried 3 times"),
        ("short", r"short read: \d+ of \d+ bytes; tried 3 times"),
        ("flipped", "its sha256 differs from the manifest's, 2 times"),
        ("hang", "no answer in 0.5 s; tried 3 times"),
    ],
)
def test_a_store_that_always_fails_ends_the_stream_with_one_line(
    server: FlakyServer, patient: Settings, fault: str, said: str
) -> None:
    server.always[SHARD] = fault
    with pytest.raises(DataError, match=rf"^shard {server.url}/{SHARD}.*{said}.*run `e4t prepare --verify`") as caught:
        take(server.url, 12, patient())
    assert "\n" not in str(caught.value)


def test_a_shard_lost_at_the_store_is_skipped_and_counted(server: FlakyServer, patient: Settings) -> None:
    server.always[SHARD] = "404"
    size = len(ShardReader(server.folder, "train"))
    batches = take(server.url, size // 4, patient(on_error="skip", num_workers=2))
    skipped = [key for batch in batches for key in batch.skipped]
    assert sorted(skipped) == [f"{SHARD}[{row}]" for row in range(len(skipped))]
    assert len(skipped) == ShardReader(server.folder, "train").counts[1]
    assert all(len(batch.keys) == len(batch.tensors["pixels"]) == 4 for batch in batches)


def test_a_cached_shard_that_rots_is_fetched_anew(server: FlakyServer, patient: Settings, tmp_path: Path) -> None:
    config = patient()
    reader = ShardReader(server.url, "train", config)
    expected = reader.read(1, 0)
    cached = tmp_path / "cache" / reader.shards[1].sha256
    cached.write_bytes(bytes(reader.shards[1].bytes))
    assert torch.equal(reader.read(1, 0).pixels, expected.pixels)
    assert server.requests[SHARD] == 2


def test_features_at_a_url_stream_as_they_do_from_a_folder(shared_set: Path, patient: Settings, tmp_path: Path) -> None:
    shutil.copytree(shared_set, tmp_path / "set")
    purpose = {"model": "a"}
    write_features(str(tmp_path / "set"), "features", purpose, lambda pixels: {"mean": pixels.mean((1, 2, 3))})
    with flaky_server(tmp_path / "set") as server:
        server.faults["features/train/train-000001.safetensors"].extend(["500", "cut"])
        config = patient(horizontal_flip=True)
        batches = [
            take(root, 12, config, features=FeatureReader(root, "features", "train", purpose, config))
            for root in (str(tmp_path / "set"), server.url)
        ]
    for here, there in zip(*batches, strict=True):
        assert (here.keys, torch.equal(here.tensors["mean"], there.tensors["mean"])) == (there.keys, True)


def test_features_lost_at_the_store_are_named(shared_set: Path, patient: Settings, tmp_path: Path) -> None:
    shutil.copytree(shared_set, tmp_path / "set")
    write_features(str(tmp_path / "set"), "features", {}, lambda pixels: {"mean": pixels.mean((1, 2, 3))})
    with flaky_server(tmp_path / "set") as server:
        server.always["features/train/train-000001.safetensors"] = "500"
        features = FeatureReader(server.url, "features", "train", {}, patient())
        with pytest.raises(
            SampleReadError, match=r"features http.*train-000001.safetensors cannot be read .*`e4t cache`"
        ):
            features.read(1, 0, flipped=False)
