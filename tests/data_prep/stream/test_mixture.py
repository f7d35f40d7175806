"""Streaming a mixture of datasets."""

import shutil
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.config import DataLoaderConfig, SplitFractions
from data_prep.config_dict import differences
from data_prep.shards.features import FeatureReader, write_features
from data_prep.shards.reader import ShardReader
from data_prep.stream.stream import Batch, ShardStream
from e4t_errors import ConfigError
from tests.data_prep.conftest import make_config, noise, prepare_in_process

MakeLoaderConfig = Callable[..., DataLoaderConfig]


@pytest.fixture(scope="session")
def other_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another dataset of 20 images, all in ``train``."""
    root = tmp_path_factory.mktemp("other")
    for number in range(20):
        folder = root / "images" / f"dog{number:02d}"
        folder.mkdir(parents=True)
        noise(1000 + number).save(folder / "0.png")
    everything = SplitFractions(train=1.0, val=0.0, test=0.0)
    prepare_in_process(make_config(root / "images", root / "set", shard_samples=6, splits=everything))
    return root / "set"


def take(root: Path, batches: int, config: DataLoaderConfig, **position: Any) -> list[Batch]:
    with ShardStream(root, "train", config=config, **position) as stream:
        return list(islice(stream, batches))


def keys_of(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_each_dataset_has_its_fraction_and_each_sample_occurs_once_per_epoch(
    shared_dataset: Path, other_dataset: Path, loader_config: MakeLoaderConfig
) -> None:
    config = loader_config(mixture={str(other_dataset): 0.5})
    keys = keys_of(take(shared_dataset, 20, config, global_batch_size=6))
    dogs = [key for key in keys if key.startswith("dog")]
    cats = [key for key in keys if not key.startswith("dog")]
    assert all(sum(key.startswith("dog") for key in keys[start : start + 3]) == 1 for start in range(0, 120, 3))
    size = len(ShardReader(shared_dataset, "train"))
    assert len(set(cats[:size])) == size
    assert len(set(dogs[:20])) == len(set(dogs[20:40])) == 20


def test_the_order_of_the_own_dataset_is_the_same_as_without_mixing(
    shared_dataset: Path, other_dataset: Path, loader_config: MakeLoaderConfig
) -> None:
    mixed = keys_of(
        take(shared_dataset, 20, loader_config(mixture={str(other_dataset): 2}), global_batch_size=6, seed=4)
    )
    alone = keys_of(take(shared_dataset, 20, loader_config(), global_batch_size=6, seed=4))
    own = [key for key in mixed if not key.startswith("dog")]
    assert own == alone[: len(own)]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_workers_and_resuming_do_not_change_a_mixture(
    shared_dataset: Path, other_dataset: Path, loader_config: MakeLoaderConfig, world: int
) -> None:
    mixture = {str(other_dataset): 0.75}
    alone = take(shared_dataset, 12, loader_config(mixture=mixture, horizontal_flip=True), global_batch_size=6)
    ranks = [
        take(
            shared_dataset,
            5,
            loader_config(mixture=mixture, horizontal_flip=True, num_workers=1),
            global_batch_size=6,
            rank=r,
            world_size=world,
            samples_seen=42,
        )
        for r in range(world)
    ]
    for number, whole in enumerate(alone[7:]):
        parts = [rank[number] for rank in ranks]
        assert keys_of(parts) == whole.keys
        assert torch.equal(torch.cat([part.tensors["pixels"] for part in parts]), whole.tensors["pixels"])
        assert {(part.epoch, part.samples_seen) for part in parts} == {(whole.epoch, whole.samples_seen)}


def test_the_epoch_of_a_batch_is_that_of_the_own_dataset(
    shared_dataset: Path, other_dataset: Path, loader_config: MakeLoaderConfig
) -> None:
    size = len(ShardReader(shared_dataset, "train"))
    for batch in take(
        shared_dataset, 2 * size // 2, loader_config(mixture={str(other_dataset): 1}), global_batch_size=4
    ):
        assert batch.epoch == (batch.samples_seen // 2 - 1) // size


def test_the_order_does_not_depend_on_locations_and_listing_of_the_datasets(
    shared_dataset: Path, other_dataset: Path, loader_config: MakeLoaderConfig, tmp_path: Path
) -> None:
    (tmp_path / "moved").symlink_to(other_dataset)
    third = make_config(tmp_path / "images", tmp_path / "third")
    (tmp_path / "images" / "bird").mkdir(parents=True)
    for number in range(6):
        (tmp_path / "images" / f"bird{number}").mkdir()
        noise(2000 + number).save(tmp_path / "images" / f"bird{number}" / "0.png")
    prepare_in_process(third)
    one = loader_config(mixture={str(other_dataset): 1, third.output: 2})
    two = loader_config(mixture={third.output: 2.0, str(tmp_path / "moved"): 1})
    streams = [ShardStream(shared_dataset, "train", global_batch_size=4, config=config) for config in (one, two)]
    assert streams[0].fingerprint() == streams[1].fingerprint()
    assert keys_of(take(shared_dataset, 8, one, global_batch_size=4)) == keys_of(
        take(shared_dataset, 8, two, global_batch_size=4)
    )


def test_the_fingerprint_shows_what_differs(
    shared_dataset: Path, other_dataset: Path, loader_config: MakeLoaderConfig
) -> None:
    def fingerprint(**changes: Any) -> dict[str, Any]:
        return ShardStream(shared_dataset, "train", global_batch_size=4, config=loader_config(**changes)).fingerprint()

    other = ShardReader(other_dataset, "train").manifest.digest
    assert differences(fingerprint(), fingerprint(horizontal_flip=True, num_workers=1, retries=9)) == []
    assert differences(fingerprint(), fingerprint(shuffle_window_shards=4)) == [("shuffle_window_shards", 3, 4)]
    assert differences(fingerprint(), fingerprint(mixture={str(other_dataset): 0.5})) == [
        ("fraction", "1 of 1", "2 of 3"),
        (f"mixture.{other}", None, "1 of 3"),
    ]


def test_features_are_mixed_in_the_same_order_as_images(
    shared_dataset: Path, other_dataset: Path, loader_config: MakeLoaderConfig, tmp_path: Path
) -> None:
    for name, root in (("one", shared_dataset), ("two", other_dataset)):
        shutil.copytree(root, tmp_path / name)
        write_features(str(tmp_path / name), "features", {}, lambda pixels: {"corner": pixels[:, :, 0, 0]})
    config = loader_config(mixture={str(tmp_path / "two"): 1}, horizontal_flip=True)
    features = FeatureReader(str(tmp_path / "one"), "features", "train", {}, config)
    images = take(tmp_path / "one", 10, config, global_batch_size=6)
    cached = take(tmp_path / "one", 10, config, global_batch_size=6, features=features)
    for image, feature in zip(images, cached, strict=True):
        corner = image.tensors["pixels"][:, :, 0, 0].float() / 127.5 - 1
        assert (image.keys, torch.equal(corner, feature.tensors["corner"])) == (feature.keys, True)
    assert Counter(key.startswith("dog") for key in keys_of(cached)) == {True: 30, False: 30}


def test_datasets_of_different_resolutions_are_refused(
    shared_dataset: Path, loader_config: MakeLoaderConfig, images: Path, tmp_path: Path
) -> None:
    prepare_in_process(make_config(images, tmp_path / "large", resolution=24))
    with pytest.raises(ConfigError, match=r"resolutions of \[16, 24\] pixels; prepare all with the same one"):
        take(shared_dataset, 1, loader_config(mixture={str(tmp_path / "large"): 1}), global_batch_size=4)


def test_mixing_the_own_dataset_in_again_is_refused(shared_dataset: Path, loader_config: MakeLoaderConfig) -> None:
    with pytest.raises(ConfigError, match="a dataset is listed twice"):
        take(shared_dataset, 1, loader_config(mixture={shared_dataset.as_uri(): 1}), global_batch_size=4)
