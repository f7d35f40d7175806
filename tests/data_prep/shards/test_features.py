import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_prep.config import DataLoaderConfig
from data_prep.errors import DataError
from data_prep.shards.features import FeatureReader, verify_features, write_features
from data_prep.shards.reader import ShardReader, to_float
from data_prep.stream.stream import ShardStream
from e4t_errors import ConfigError

FINGERPRINT = {"model": "a", "dtype": "float32"}


def corners(pixels: Tensor) -> dict[str, Tensor]:
    """Return the upper left pixel of each image, a feature that differs between an image and its mirror image."""
    return {"corner": pixels[:, :, 0, 0]}


@pytest.fixture
def root(shared_dataset: Path, tmp_path: Path) -> str:
    """A dataset with features computed by two ranks."""
    shutil.copytree(shared_dataset, tmp_path / "set")
    for rank in range(2):
        write_features(str(tmp_path / "set"), "features", FINGERPRINT, corners, rank=rank, world_size=2, batch_size=2)
    return str(tmp_path / "set")


def test_every_image_has_features_of_itself_and_of_its_mirror_image(root: str) -> None:
    features = FeatureReader(root, "features", "train", FINGERPRINT)
    reader = ShardReader(root, "train")
    for shard, row in ((0, 0), (2, 1)):
        pixels = reader.read(shard, row).pixels.float() / 127.5 - 1
        assert torch.equal(features.read(shard, row, flipped=False)["corner"], pixels[:, 0, 0])
        assert torch.equal(features.read(shard, row, flipped=True)["corner"], pixels[:, 0, -1])


def test_a_stream_from_features_has_the_same_order_and_flips_as_a_stream_of_images(root: str) -> None:
    config = DataLoaderConfig(shuffle_window_shards=3, num_workers=0, horizontal_flip=True)
    features = FeatureReader(root, "features", "train", FINGERPRINT)
    with (
        ShardStream(root, "train", global_batch_size=8, config=config) as images,
        ShardStream(root, "train", global_batch_size=8, config=config, features=features) as cached,
    ):
        for _ in range(8):
            from_images, from_features = next(images), next(cached)
            assert from_features.keys == from_images.keys
            assert from_features.captions == from_images.captions
            assert torch.equal(from_features.tensors["corner"], to_float(from_images.tensors["pixels"])[:, :, 0, 0])


def test_a_rerun_computes_only_missing_features(root: str) -> None:
    (Path(root) / "features" / "train" / "train-000001.safetensors").unlink()
    batch_sizes: list[int] = []

    def counting(pixels: Tensor) -> dict[str, Tensor]:
        batch_sizes.append(len(pixels))
        return corners(pixels)

    write_features(root, "features", FINGERPRINT, counting)
    assert sum(batch_sizes) == 2 * ShardReader(root, "train").counts[1]
    assert list(verify_features(root, "features")) == []


@pytest.mark.parametrize(
    "use",
    [
        lambda root: FeatureReader(root, "features", "train", FINGERPRINT | {"model": "b"}),
        lambda root: write_features(root, "features", FINGERPRINT | {"model": "b"}, corners),
    ],
    ids=["read", "write"],
)
def test_features_of_another_model_are_refused_and_the_difference_is_named(
    root: str, use: Callable[[str], object]
) -> None:
    with pytest.raises(
        ConfigError, match=r"computed for other models or data \(model: a there, b now\); give another cache"
    ):
        use(root)


def test_features_of_other_shards_are_refused(root: str) -> None:
    manifest = Path(root) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"domain": "dog"}))
    with pytest.raises(ConfigError, match="manifest: .* there, .* now"):
        FeatureReader(root, "features", "train", FINGERPRINT)


def test_incomplete_features_are_refused(root: str) -> None:
    (Path(root) / "features" / "train" / "train-000001.json").unlink()
    with pytest.raises(DataError, match=r"1 of \d+ shards of train have none; run `e4t cache`"):
        FeatureReader(root, "features", "train", FINGERPRINT)


def test_verify_names_a_changed_file(root: str) -> None:
    path = Path(root) / "features" / "train" / "train-000000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (line,) = verify_features(root, "features")
    assert "train-000000.safetensors were changed after they were written; delete the file" in line
