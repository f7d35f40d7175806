import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from data_prep.config import DataLoaderConfig
from data_prep.errors import DataError, SampleReadError
from data_prep.shards.feature_files import verify_features
from data_prep.shards.features import FeatureReader, write_features
from data_prep.shards.reader import ShardReader, to_float
from data_prep.stream.stream import ShardStream
from e4t_errors import ConfigError
from tests.data_prep.damage import edit_json, flip_bit

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


def test_missing_models_in_the_index_of_the_features_are_not_assumed(root: str) -> None:
    (Path(root) / "features" / "features.json").unlink()
    for use in (FeatureReader, lambda *args: write_features(args[0], args[1], args[3], corners)):
        with pytest.raises(DataError, match="features.json is missing; run `e4t cache`; if the folder has"):
            use(root, "features", "train", FINGERPRINT)


FILE = "features/train/train-000000.safetensors"


def damage(path: Path, row: int) -> None:
    """Invert a bit in the features of the mirror image of a row."""
    with safe_open(path, framework="pt") as file:
        rows = len(file.get_tensor("corner"))
    flip_bit(path, -4 * 3 * (2 * (rows - row) - 1), 6)


def without_checksums(root: str) -> None:
    """Make the entries what earlier versions wrote."""
    for entry in (Path(root) / "features").rglob("train-*.json"):
        edit_json(entry, lambda data: data.pop("rows"))


def test_a_changed_feature_is_not_returned(root: str) -> None:
    damage(Path(root) / FILE, 1)
    features = FeatureReader(root, "features", "train", FINGERPRINT)
    features.read(0, 0, flipped=True)
    features.read(0, 1, flipped=False)
    with pytest.raises(
        SampleReadError, match=r"000000.safetensors: row 1 does not match its checksum; delete the file and rerun"
    ) as caught:
        features.read(0, 1, flipped=True)
    assert not caught.value.shard_lost


def test_a_stream_skips_a_changed_feature(root: str) -> None:
    damage(Path(root) / FILE, 1)
    config = DataLoaderConfig(num_workers=0, on_error="skip", horizontal_flip=True)
    features = FeatureReader(root, "features", "train", FINGERPRINT)
    size = len(ShardReader(root, "train"))
    with ShardStream(root, "train", global_batch_size=size, config=config, features=features) as stream:
        skipped = [key for batch in islice(stream, 8) for key in batch.skipped]
    assert {*skipped} == {"train/train-000000.safetensors[1]"}
    assert 0 < len(skipped) < 8


def test_features_of_exchanged_shards_are_not_returned(root: str) -> None:
    one, other = (Path(root) / "features" / "train" / f"train-00000{number}.safetensors" for number in (0, 1))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    features = FeatureReader(root, "features", "train", FINGERPRINT)
    with pytest.raises(SampleReadError, match="does not match its checksum"):
        features.read(0, 0, flipped=False)


def test_features_without_checksums_are_compared_with_their_sha256(root: str) -> None:
    expected = FeatureReader(root, "features", "train", FINGERPRINT).read(0, 0, flipped=False)
    without_checksums(root)
    found = FeatureReader(root, "features", "train", FINGERPRINT).read(0, 0, flipped=False)
    assert torch.equal(found["corner"], expected["corner"])
    assert list(verify_features(root, "features")) == []
    damage(Path(root) / FILE, 1)
    with pytest.raises(SampleReadError, match="changed after it was written.*; rerun `e4t cache`") as caught:
        FeatureReader(root, "features", "train", FINGERPRINT).read(0, 0, flipped=False)
    assert caught.value.shard_lost
    (line,) = verify_features(root, "features")
    assert "were changed after they were written; delete the file and rerun `e4t cache`" in line


def test_verify_names_the_changed_rows(root: str) -> None:
    damage(Path(root) / FILE, 0)
    damage(Path(root) / FILE, 2)
    (line,) = verify_features(root, "features")
    assert line.endswith(
        f"{FILE} of 2 images do not match their checksums (train-000000.tar[0], train-000000.tar[2]); delete the file "
        "and rerun `e4t cache`"
    )


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', "\x00"])
def test_a_malformed_index_of_the_features_is_one_clear_error(root: str, text: str) -> None:
    (Path(root) / "features" / "features.json").write_text(text)
    with pytest.raises(DataError, match="features.json cannot be read .*; delete .* and rerun `e4t cache`"):
        FeatureReader(root, "features", "train", FINGERPRINT)


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_malformed_entry_is_reported(root: str, text: str) -> None:
    (Path(root) / "features" / "train" / "train-000000.json").write_text(text)
    (line,) = verify_features(root, "features")
    assert "are missing or belong to another shard; rerun `e4t cache`" in line
    with pytest.raises(SampleReadError, match="missing or belong to another shard"):
        FeatureReader(root, "features", "train", FINGERPRINT).read(0, 0, flipped=False)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda index: index.unlink(), "features.json is missing; run `e4t cache`"),
        (lambda index: index.write_text("{}"), "features.json cannot be read"),
        (lambda index: edit_json(index, lambda data: data["fingerprint"].update(manifest="0")), "for other data"),
    ],
    ids=["missing", "malformed", "other data"],
)
def test_verify_checks_what_the_features_were_computed_for(
    root: str, damage: Callable[[Path], object], problem: str
) -> None:
    damage(Path(root) / "features" / "features.json")
    (line,) = verify_features(root, "features")
    assert problem in line
