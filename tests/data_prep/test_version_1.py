"""Datasets that were prepared before the formats got version 2 stay readable.

``fixtures/version_1_dataset`` was written by e4t at commit ccb7c71: 6 images of 3 identities in one shard, and
features.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from data_prep.config import DataLoaderConfig, PrepareConfig
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare
from data_prep.prepare.status import status
from data_prep.shards.feature_files import verify_features
from data_prep.shards.features import FeatureReader, write_features
from data_prep.shards.manifest import Manifest
from data_prep.shards.reader import ShardReader
from data_prep.shards.shard_index import ShardIndex
from data_prep.shards.verify import verify_shards
from data_prep.storage.store import Store
from data_prep.stream.stream import ShardStream
from e4t_errors import ConfigError

DATASET = Path(__file__).parent / "fixtures" / "version_1_dataset"
DIGEST = "ee19511e3cb9206b7a022688fcd0ed178d7ba3ccd0f498b40647153205c2dead"
FINGERPRINT = {"image_encoder": "aaaaaaaa", "dtype": "float32"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A copy of the fixture that tests may write to."""
    return shutil.copytree(DATASET, tmp_path / "dataset")


def test_the_manifest_loads_under_the_new_names() -> None:
    manifest = Manifest.load(DATASET)
    assert (manifest.domain, manifest.format, manifest.version) == ("cat", "png", 1)
    assert manifest.reject_counts == {"exact duplicate": 1, "not a picture": 1}


def test_the_digest_of_the_manifest_is_unchanged() -> None:
    assert Manifest.load(DATASET).digest == DIGEST


def test_saving_the_manifest_again_gives_the_same_bytes(tmp_path: Path) -> None:
    Manifest.load(DATASET).save(Store(str(tmp_path)))
    assert (tmp_path / "manifest.json").read_bytes() == (DATASET / "manifest.json").read_bytes()


def test_the_shard_index_loads_under_the_new_names() -> None:
    index = ShardIndex.load(Store(str(DATASET)), "train/train-000000.tar")
    assert index.reject_counts == {"exact duplicate": 1, "not a picture": 1}
    assert index.sample_stats["cat0__0"].metrics["width"] == 8
    assert list(verify_shards(DATASET)) == []


def test_the_dataset_streams_in_the_same_order_as_before() -> None:
    with ShardStream(DATASET, "train", global_batch_size=6, config=DataLoaderConfig(num_workers=0)) as stream:
        batch = next(stream)
    assert batch.keys == ["cat2__0", "cat2__1", "cat1__1", "cat0__1", "cat0__0", "cat1__0"]
    assert batch.captions == [*["a photo of a cat"] * 4, "a cat asleep", "a photo of a cat"]
    assert batch.identities == ["cat2", "cat2", "cat1", "cat0", "cat0", "cat1"]
    assert stream.fingerprint()["dataset"] == DIGEST


def test_cached_features_are_used_and_not_computed_again(dataset: Path) -> None:
    pixels = ShardReader(dataset, "train").read(0, 2).image
    features = FeatureReader(str(dataset), "features", "train", FINGERPRINT)
    assert torch.equal(features.read(0, 2, flipped=False)["corner"], pixels[:, 0, 0])
    assert list(verify_features(str(dataset), "features")) == []
    write_features(str(dataset), "features", FINGERPRINT, lambda pixels: pytest.fail("computed again"))


def test_cached_features_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="image_encoder: aaaaaaaa there, bbbbbbbb now"):
        FeatureReader(str(DATASET), "features", "train", FINGERPRINT | {"image_encoder": "bbbbbbbb"})


def test_preparing_it_again_is_refused_in_one_line_before_anything_is_written(dataset: Path, images: Path) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    config = PrepareConfig(source=str(images), output=str(dataset), domain="cat", resolution=8, format="png")
    with pytest.raises(
        ConfigError, match="prepared by an older version of e4t.*; .* give another data.output"
    ) as caught:
        prepare(config, LocalExecutor(workers=1))
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before


def test_its_status_is_finished() -> None:
    found = status(PrepareConfig(source="x", output=str(DATASET), domain="cat"))
    assert (found.finished, found.processed, found.num_shards) == (True, 8, 1)
    assert json.loads((DATASET / "prepare.json").read_text())["concept"] == "cat"
