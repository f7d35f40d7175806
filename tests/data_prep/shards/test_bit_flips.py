"""Whatever bit of a dataset is inverted: no wrong sample is returned, and verifying reports what cannot be read."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.shards.feature_files import verify_features
from data_prep.shards.features import FeatureReader, write_features
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardReader
from data_prep.shards.verify import verify_shards
from tests.data_prep.damage import flip_bit

ROUNDS = 50
SHARD = "train/train-000001"
FEATURES = f"features/{SHARD}.safetensors"
Rows = dict[tuple[int, int, bool], tuple[Any, ...]]


@pytest.fixture
def dataset(images: Path, config_for: Callable[..., PrepareConfig], prepare_dataset: Any) -> Path:
    """Images as webp, where most inverted bits give another image instead of a decoding error, and features."""
    config = config_for(format="webp", resolution=32, shard_samples=9)
    prepare_dataset(config)
    write_features(
        config.output, "features", {}, lambda pixels: {"corner": pixels[:, :, 0, 0], "mean": pixels.mean((1, 2, 3))}
    )
    return Path(config.output)


def read_samples(dataset: Path) -> Iterator[tuple[tuple[int, int, bool], tuple[Any, ...]]]:
    """Read what can be read of every sample, by shard and row."""
    with suppress(DataError):
        reader = ShardReader(dataset, "train")
        for shard, count in enumerate(reader.counts):
            for row in range(count):
                with suppress(DataError):
                    sample = reader.read(shard, row)
                    yield (shard, row, False), (sample.key, sample.identity, sample.caption, sample.pixels)


def read_features(dataset: Path) -> Iterator[tuple[tuple[int, int, bool], tuple[Any, ...]]]:
    """Read what can be read of all features, by shard, row and whether they are those of the mirror image."""
    with suppress(DataError):
        reader = FeatureReader(str(dataset), "features", "train", {})
        for shard, entry in enumerate(Manifest.load(dataset).shards("train")):
            for row in range(entry.samples):
                for flipped in (False, True):
                    with suppress(DataError):
                        features = reader.read(shard, row, flipped=flipped)
                        yield (shard, row, flipped), tuple(value for _, value in sorted(features.items()))


def is_equal(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return all(
        torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        for one, other in zip(some, others, strict=True)
    )


@contextmanager
def inverted_bit(path: Path, draw: random.Random) -> Iterator[str]:
    """Invert a random bit of a file, and restore the file afterwards."""
    before = path.read_bytes()
    byte, bit = draw.randrange(len(before)), draw.randrange(8)
    flip_bit(path, byte, bit)
    yield f"{path.name}: byte {byte}, bit {bit}"
    path.write_bytes(before)


@pytest.mark.parametrize("name", [f"{SHARD}.tar", f"{SHARD}.json", "manifest.json"])
def test_an_inverted_bit_never_gives_a_wrong_sample(dataset: Path, name: str) -> None:
    expected, draw = dict(read_samples(dataset)), random.Random(name)
    unread = 0
    for _ in range(ROUNDS):
        with inverted_bit(dataset / name, draw) as place:
            found = dict(read_samples(dataset))
            assert all(is_equal(sample, expected[position]) for position, sample in found.items()), place
            if len(found) < len(expected) or name.endswith(".tar"):
                unread += 1
                with suppress(DataError):
                    assert list(verify_shards(dataset)), place
    assert unread > ROUNDS // 5
    assert len(dict(read_samples(dataset))) == len(expected)


@pytest.mark.parametrize("name", [FEATURES, FEATURES.replace("safetensors", "json")])
def test_an_inverted_bit_never_gives_wrong_features(dataset: Path, name: str) -> None:
    expected, draw = dict(read_features(dataset)), random.Random(name)
    for _ in range(ROUNDS):
        with inverted_bit(dataset / name, draw) as place:
            found = dict(read_features(dataset))
            assert all(is_equal(features, expected[position]) for position, features in found.items()), place
            if len(found) < len(expected) or name == FEATURES:
                assert list(verify_features(str(dataset), "features")), place
    assert list(verify_features(str(dataset), "features")) == []
