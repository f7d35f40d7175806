"""Streams of several sets."""

import shutil
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.config import DataLoaderConfig, SplitFractions
from data_prep.config_diff import differences
from data_prep.shards.features import FeatureReader, write_features
from data_prep.stream.stream import Batch, ShardReader, ShardStream
from e4t import ConfigError
from tests.data_prep.conftest import make_config, make_set, noise

Settings = Callable[..., DataLoaderConfig]


@pytest.fixture(scope="session")
def other_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another set, of 20 pictures, all of them in ``train``."""
    root = tmp_path_factory.mktemp("other")
    for number in range(20):
        folder = root / "pictures" / f"dog{number:02d}"
        folder.mkdir(parents=True)
        noise(1000 + number).save(folder / "0.png")
    everything = SplitFractions(train=1.0, val=0.0, test=0.0)
    make_set(make_config(root / "pictures", root / "set", shard_samples=6, splits=everything))
    return root / "set"


def take(root: Path, batches: int, config: DataLoaderConfig, **position: Any) -> list[Batch]:
    with ShardStream(root, "train", config=config, **position) as stream:
        return list(islice(stream, batches))


def keys_of(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_each_set_comes_in_its_share_and_once_in_its_own_epoch(
    shared_set: Path, other_set: Path, patient: Settings
) -> None:
    config = patient(mixture={str(other_set): 0.5})
    keys = keys_of(take(shared_set, 20, config, global_batch_size=6))
    dogs = [key for key in keys if key.startswith("dog")]
    cats = [key for key in keys if not key.startswith("dog")]
    assert all(sum(key.startswith("dog") for key in keys[start : start + 3]) == 1 for start in range(0, 120, 3))
    size = len(ShardReader(shared_set, "train"))
    assert len(set(cats[:size])) == size
    assert len(set(dogs[:20])) == len(set(dogs[20:40])) == 20


def test_the_own_sets_order_is_the_one_it_has_alone(shared_set: Path, other_set: Path, patient: Settings) -> None:
    mixed = keys_of(take(shared_set, 20, patient(mixture={str(other_set): 2}), global_batch_size=6, seed=4))
    alone = keys_of(take(shared_set, 20, patient(), global_batch_size=6, seed=4))
    own = [key for key in mixed if not key.startswith("dog")]
    assert own == alone[: len(own)]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_workers_and_a_resume_change_nothing_in_a_mix(
    shared_set: Path, other_set: Path, patient: Settings, world: int
) -> None:
    mix = {str(other_set): 0.75}
    alone = take(shared_set, 12, patient(mixture=mix, horizontal_flip=True), global_batch_size=6)
    ranks = [
        take(
            shared_set,
            5,
            patient(mixture=mix, horizontal_flip=True, num_workers=1),
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


def test_the_epoch_of_a_batch_is_the_own_sets(shared_set: Path, other_set: Path, patient: Settings) -> None:
    size = len(ShardReader(shared_set, "train"))
    for batch in take(shared_set, 2 * size // 2, patient(mixture={str(other_set): 1}), global_batch_size=4):
        assert batch.epoch == (batch.samples_seen // 2 - 1) // size


def test_where_sets_lie_and_how_they_are_listed_changes_nothing(
    shared_set: Path, other_set: Path, patient: Settings, tmp_path: Path
) -> None:
    (tmp_path / "moved").symlink_to(other_set)
    third = make_config(tmp_path / "pictures", tmp_path / "third")
    (tmp_path / "pictures" / "bird").mkdir(parents=True)
    for number in range(6):
        (tmp_path / "pictures" / f"bird{number}").mkdir()
        noise(2000 + number).save(tmp_path / "pictures" / f"bird{number}" / "0.png")
    make_set(third)
    one = patient(mixture={str(other_set): 1, third.output: 2})
    two = patient(mixture={third.output: 2.0, str(tmp_path / "moved"): 1})
    streams = [ShardStream(shared_set, "train", global_batch_size=4, config=config) for config in (one, two)]
    assert streams[0].digest == streams[1].digest
    assert keys_of(take(shared_set, 8, one, global_batch_size=4)) == keys_of(
        take(shared_set, 8, two, global_batch_size=4)
    )


def test_the_identity_tells_what_differs(shared_set: Path, other_set: Path, patient: Settings) -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        return ShardStream(shared_set, "train", global_batch_size=4, config=patient(**changes)).fingerprint()

    other = ShardReader(other_set, "train").manifest.digest
    assert differences(identity(), identity(horizontal_flip=True, num_workers=1, retries=9)) == []
    assert differences(identity(), identity(shuffle_window_shards=4)) == [("shuffle_window_shards", 3, 4)]
    assert differences(identity(), identity(mixture={str(other_set): 0.5})) == [
        ("fraction", "1 of 1", "2 of 3"),
        (f"mixture.{other}", None, "1 of 3"),
    ]


def test_features_of_every_set_are_mixed_as_the_pictures_are(
    shared_set: Path, other_set: Path, patient: Settings, tmp_path: Path
) -> None:
    for name, root in (("one", shared_set), ("two", other_set)):
        shutil.copytree(root, tmp_path / name)
        write_features(str(tmp_path / name), "seen", {}, lambda pixels: {"corner": pixels[:, :, 0, 0]})
    config = patient(mixture={str(tmp_path / "two"): 1}, horizontal_flip=True)
    features = FeatureReader(str(tmp_path / "one"), "seen", "train", {}, config)
    pictures = take(tmp_path / "one", 10, config, global_batch_size=6)
    seen = take(tmp_path / "one", 10, config, global_batch_size=6, features=features)
    for picture, feature in zip(pictures, seen, strict=True):
        corner = picture.tensors["pixels"][:, :, 0, 0].float() / 127.5 - 1
        assert (picture.keys, torch.equal(corner, feature.tensors["corner"])) == (feature.keys, True)
    assert Counter(key.startswith("dog") for key in keys_of(seen)) == {True: 30, False: 30}


def test_sets_of_other_sizes_are_refused(shared_set: Path, patient: Settings, pictures: Path, tmp_path: Path) -> None:
    make_set(make_config(pictures, tmp_path / "large", resolution=24))
    with pytest.raises(ConfigError, match=r"resolutions of \[16, 24\] pixels; prepare all with the same one"):
        take(shared_set, 1, patient(mixture={str(tmp_path / "large"): 1}), global_batch_size=4)


def test_the_own_set_named_again_is_refused(shared_set: Path, patient: Settings) -> None:
    with pytest.raises(ConfigError, match="a dataset is listed twice"):
        take(shared_set, 1, patient(mixture={shared_set.as_uri(): 1}), global_batch_size=4)
