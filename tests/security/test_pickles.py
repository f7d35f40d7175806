"""Every loader rejects a hostile pickle with a one-line error and does not run it."""

import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.errors import DataError
from data_prep.prepare.pipeline import prepare
from data_prep.shards.features import FeatureReader, write_features
from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.concepts.concept import Concept
from encoder.concepts.concept_tokens import LearnedToken
from encoder.concepts.diffusers_io import LORA_WEIGHTS_NAME, TI_WEIGHTS_NAME, from_diffusers
from encoder.config import BackboneConfig
from encoder.errors import ModelError
from encoder.metrics import ClipScorer, ImageFeatureExtractor
from encoder.pipeline import E4TPipeline
from pipelines.errors import RunError
from pipelines.pretraining.checkpoints import format as saved_state
from pipelines.pretraining.checkpoints.format import load_state
from pipelines.tiny_base.attribute_classifier import ATTRIBUTE_WEIGHTS_NAME, AttributeClassifier
from tests.bases import SHIPPED, make_base

RELEASE = SHIPPED.parent / "faces"
E4T_ERRORS = (ConfigError, ModelError, DataError, RunError)


@pytest.fixture
def load_error(marker: Path) -> Callable[..., str]:
    """Return a function that checks that loading fails with an e4t error and runs nothing, and returns the message."""

    def check(load: Callable[[], object]) -> str:
        with pytest.raises(E4T_ERRORS) as caught:
            load()
        assert not marker.exists()
        return " ".join(str(caught.value).split())

    return check


def test_the_hostile_file_runs_when_it_is_unpickled(hostile: bytes, marker: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(hostile)
    with suppress(RuntimeError, pickle.UnpicklingError):  # it runs before torch notices that it is not a tensor
        torch.load(tmp_path / "file", weights_only=False)
    assert marker.read_text() == "unpickled"


class TestModels:
    """Releases, concepts, base models and metrics."""

    @pytest.mark.parametrize(
        "file",
        [
            "index.json",
            "domain_encoder/config.json",
            "domain_encoder/model.safetensors",
            "weight_offsets/model.safetensors",
        ],
    )
    def test_a_release_file_is_rejected(self, hostile: bytes, file: str, load_error, tmp_path: Path) -> None:
        folder = shutil.copytree(RELEASE, tmp_path / "release")
        (folder / file).write_bytes(hostile)
        assert str(folder) in load_error(lambda: E4TPipeline.from_pretrained(folder, base=str(SHIPPED), device="cpu"))

    @pytest.mark.parametrize("file", ["concept.json", "concept.safetensors"])
    def test_a_concept_folder_is_rejected(self, hostile: bytes, file: str, load_error, tmp_path: Path) -> None:
        folder = Concept(weight_deltas={}, token=LearnedToken(torch.zeros(4), (4,)), release="any").save(
            tmp_path / "me"
        )
        (folder / file).write_bytes(hostile)
        assert "not a complete concept" in load_error(lambda: Concept.load(folder))

    def test_a_concept_file_is_rejected(self, hostile: bytes, load_error, tmp_path: Path) -> None:
        (tmp_path / "me.safetensors").write_bytes(hostile)
        load_error(lambda: Concept.load(tmp_path / "me.safetensors"))
        load_error(lambda: Concept.from_bytes(hostile))

    @pytest.mark.parametrize("file", [TI_WEIGHTS_NAME, LORA_WEIGHTS_NAME])
    def test_diffusers_files_are_rejected(self, hostile: bytes, file: str, load_error, tmp_path: Path) -> None:
        (tmp_path / file).write_bytes(hostile)
        assert "cannot be read" in load_error(lambda: from_diffusers(tmp_path, release="any"))

    @pytest.mark.parametrize("name", ["learned_embeds.bin", "pytorch_lora_weights.bin"])
    def test_pickles_that_diffusers_would_load_are_ignored(
        self, hostile: bytes, name: str, load_error, tmp_path: Path
    ) -> None:
        (tmp_path / name).write_bytes(hostile)
        assert "holds neither" in load_error(lambda: from_diffusers(tmp_path, release="any"))

    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "clip"])
    @pytest.mark.parametrize("stored_as", ["pickle only", "named safetensors"])
    def test_base_model_weights_are_rejected(
        self, hostile: bytes, part: str, stored_as: str, load_error, tmp_path: Path
    ) -> None:
        base = make_base(tmp_path / "base", "sd1")
        (weights,) = (base / part).glob("*.safetensors")
        if stored_as == "pickle only":
            name = {"model.safetensors": "pytorch_model.bin"}.get(weights.name, weights.with_suffix(".bin").name)
            weights.unlink()
            weights = weights.with_name(name)
        weights.write_bytes(hostile)
        error = load_error(lambda: Backbone.load(BackboneConfig(model=str(base))))
        assert "pickles (.bin, .ckpt) are never opened" in error

    @pytest.mark.parametrize("kind", [ClipScorer, ImageFeatureExtractor])
    def test_metric_models_are_rejected(self, hostile: bytes, kind: type, load_error, tmp_path: Path) -> None:
        folder = tmp_path / "clip"
        shutil.copytree(SHIPPED / "clip", folder, ignore=shutil.ignore_patterns("*.safetensors"))
        (folder / "pytorch_model.bin").write_bytes(hostile)
        assert "cannot be loaded" in load_error(lambda: kind(str(folder)))

    def test_an_attribute_classifier_is_rejected(self, hostile: bytes, load_error, tmp_path: Path) -> None:
        (tmp_path / ATTRIBUTE_WEIGHTS_NAME).write_bytes(hostile)
        assert "cannot be loaded" in load_error(lambda: AttributeClassifier.load(tmp_path))


@pytest.mark.parametrize(
    "file", ["state.json", "trainable/domain_encoder.safetensors", "optimizer/exp_avg.safetensors"]
)
def test_a_checkpoint_file_is_rejected(hostile: bytes, file: str, load_error, tmp_path: Path) -> None:
    (tmp_path / "trainable").mkdir()
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "state.json").write_text(
        json.dumps({"format": saved_state.FORMAT_VERSION, "updates": 1, "loss_scale": None})
    )
    for name in saved_state.FILE_BY_PREFIX.values():
        save_file({"weight": torch.zeros(1)}, tmp_path / "trainable" / name)
    assert load_state(tmp_path).optimizer_steps == 1
    (tmp_path / file).write_bytes(hostile)
    assert "cannot be read" in load_error(lambda: load_state(tmp_path))


def put(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


class TestData:
    """Shards, tables, datasets and features."""

    @pytest.fixture
    def png(self) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(buffer, "png")
        return buffer.getvalue()

    @pytest.fixture
    def prepared(self, tmp_path: Path):
        """Prepare a source with default settings except for ``data.source_options``."""

        def run(source: Path, **options):
            output = str(tmp_path / "set")
            return prepare(
                PrepareConfig(
                    source=str(source),
                    output=output,
                    domain="cat",
                    resolution=32,
                    source_options=SourceConfig(**options),
                )
            )

        return run

    def test_shard_members_that_webdataset_would_unpickle_are_not_opened(
        self, hostile: bytes, marker: Path, png: bytes, prepared, tmp_path: Path
    ) -> None:
        suffixes = (".pyd", ".pkl", ".pickle", ".pth", ".pt", ".npy", ".npz", ".ten", ".mp")
        (tmp_path / "in").mkdir()
        with tarfile.open(tmp_path / "in" / "set-000000.tar", "w") as tar:
            put(tar, "0.png", png)
            for suffix in suffixes:
                put(tar, f"0{suffix}", hostile)
            put(tar, "1.png", hostile)
            for number, suffix in enumerate((".json", ".cls", ".txt"), 2):
                put(tar, f"{number}.png", png)
                put(tar, f"{number}{suffix}", hostile)
        manifest = prepared(tmp_path / "in" / "set-{000000..000000}.tar", type="shards")
        assert not marker.exists()
        assert manifest.kept == 1
        assert manifest.reject_counts == {"not an image": 1, "text is not UTF-8": 2, "caption is not UTF-8": 1}

    @pytest.mark.parametrize("name", ["set.parquet", "set.arrow", "set.zip", "set.tar", "set.tar.gz", "set.csv"])
    def test_a_source_file_is_rejected(self, hostile: bytes, name: str, load_error, prepared, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(hostile)
        load_error(lambda: prepared(tmp_path / name))

    def test_invalid_images_in_a_dataset_are_rejected(
        self, hostile: bytes, marker: Path, png: bytes, prepared, tmp_path: Path
    ) -> None:
        cells = [{"bytes": data, "path": None} for data in (png, hostile)]
        pyarrow.parquet.write_table(pyarrow.table({"image": cells}), tmp_path / "set.parquet")
        manifest = prepared(tmp_path / "set.parquet")
        assert not marker.exists()
        assert (manifest.kept, sum(manifest.reject_counts.values())) == (1, 1)

    def test_shards_whose_dataset_builder_would_unpickle_tensors_are_rejected(
        self, hostile: bytes, load_error, png: bytes, prepared, tmp_path: Path
    ) -> None:
        (tmp_path / "in").mkdir()
        with tarfile.open(tmp_path / "in" / "train-0.tar", "w") as tar:
            put(tar, "0.png", png)
            put(tar, "0.pth", hostile)
        load_error(lambda: prepared(tmp_path / "in", type="datasets", image_column="png"))

    def test_a_feature_file_is_rejected(self, hostile: bytes, load_error, png: bytes, prepared, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.png").write_bytes(png)
        root = str(tmp_path / "set")
        prepared(tmp_path / "in", pattern="{identity}")
        write_features(root, "features", {}, lambda pixels: {"mean": pixels.mean((1, 2, 3))})
        (file,) = Path(root, "features").rglob("*.safetensors")
        file.write_bytes(hostile)
        reader = FeatureReader(root, "features", file.parent.name, {})
        assert "cannot be read" in load_error(lambda: reader.read(0, 0, flipped=False))

    def test_a_manifest_is_rejected(self, hostile: bytes, load_error, tmp_path: Path) -> None:
        (tmp_path / "manifest.json").write_bytes(hostile)
        load_error(lambda: FeatureReader(str(tmp_path), "features", "train", {}))
