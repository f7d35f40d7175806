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
from data_prep.shards.reader import ShardReader
from data_prep.stream.stream import ShardStream, to_float
from e4t import ConfigError

PURPOSE = {"model": "a", "dtype": "float32"}


def corners(pixels: Tensor) -> dict[str, Tensor]:
    """Of a picture, the upper left pixel: a feature that tells a picture from its mirror image."""
    return {"corner": pixels[:, :, 0, 0]}


@pytest.fixture
def root(shared_set: Path, tmp_path: Path) -> str:
    """A set of which each of two ranks has made its features."""
    shutil.copytree(shared_set, tmp_path / "set")
    for rank in range(2):
        write_features(str(tmp_path / "set"), "features", PURPOSE, corners, rank=rank, world_size=2, batch_size=2)
    return str(tmp_path / "set")


def test_every_picture_has_its_features_and_its_mirror_images(root: str) -> None:
    features = FeatureReader(root, "features", "train", PURPOSE)
    reader = ShardReader(root, "train")
    for shard, row in ((0, 0), (2, 1)):
        pixels = reader.read(shard, row).pixels.float() / 127.5 - 1
        assert torch.equal(features.read(shard, row, flipped=False)["corner"], pixels[:, 0, 0])
        assert torch.equal(features.read(shard, row, flipped=True)["corner"], pixels[:, 0, -1])


def test_a_stream_of_features_has_the_order_and_the_flips_of_the_stream_of_pictures(root: str) -> None:
    config = DataLoaderConfig(shuffle_window_shards=3, num_workers=0, horizontal_flip=True)
    features = FeatureReader(root, "features", "train", PURPOSE)
    with (
        ShardStream(root, "train", global_batch_size=8, config=config) as pictures,
        ShardStream(root, "train", global_batch_size=8, config=config, features=features) as cached,
    ):
        for _ in range(8):
            of_pictures, of_features = next(pictures), next(cached)
            assert of_features.keys == of_pictures.keys
            assert of_features.captions == of_pictures.captions
            assert torch.equal(of_features.tensors["corner"], to_float(of_pictures.tensors["pixels"])[:, :, 0, 0])


def test_a_rerun_computes_only_what_is_missing(root: str) -> None:
    (Path(root) / "features" / "train" / "train-000001.safetensors").unlink()
    seen: list[int] = []

    def counting(pixels: Tensor) -> dict[str, Tensor]:
        seen.append(len(pixels))
        return corners(pixels)

    write_features(root, "features", PURPOSE, counting)
    assert sum(seen) == 2 * ShardReader(root, "train").counts[1]
    assert list(verify_features(root, "features")) == []


@pytest.mark.parametrize(
    "use",
    [
        lambda root: FeatureReader(root, "features", "train", PURPOSE | {"model": "b"}),
        lambda root: write_features(root, "features", PURPOSE | {"model": "b"}, corners),
    ],
    ids=["read", "write"],
)
def test_features_of_another_model_are_refused_with_the_difference(root: str, use: Callable[[str], object]) -> None:
    with pytest.raises(
        ConfigError, match=r"computed for other models or data \(model: a there, b now\); give another cache"
    ):
        use(root)


def test_features_of_other_shards_are_refused(root: str) -> None:
    manifest = Path(root) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"domain": "dog"}))
    with pytest.raises(ConfigError, match="manifest: .* there, .* now"):
        FeatureReader(root, "features", "train", PURPOSE)


def test_features_that_are_not_complete_are_refused(root: str) -> None:
    (Path(root) / "features" / "train" / "train-000001.json").unlink()
    with pytest.raises(DataError, match=r"1 of \d+ shards of train have none; run `e4t cache`"):
        FeatureReader(root, "features", "train", PURPOSE)


def test_verify_names_a_file_that_was_changed(root: str) -> None:
    path = Path(root) / "features" / "train" / "train-000000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (line,) = verify_features(root, "features")
    assert "train-000000.safetensors were changed after they were written; delete the file" in line
