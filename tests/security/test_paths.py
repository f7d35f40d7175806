"""Names in foreign files must not make e4t write or delete anything outside of its folders."""

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.prepare.pipeline import prepare
from data_prep.shards.features import write_features
from data_prep.shards.manifest import Manifest
from data_prep.storage.local_cache import FileCache
from e4t_errors import ConfigError
from encoder.backbone.loading import load_parts
from encoder.config import BackboneConfig
from encoder.errors import ModelError
from encoder.pipeline import E4TPipeline
from tests.bases import SHIPPED

RELEASE = SHIPPED.parent / "faces"
NAMES = ("../out.png", "/tmp/e4t-out.png", "a/../../out.png", "..\\out.png", "C:/out.png")  # noqa: S108 - never created


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def config(tmp_path: Path):
    return lambda source: PrepareConfig(
        source=str(source), output=str(tmp_path / "deep" / "set"), domain="cat", resolution=32
    )


def test_a_tar_with_names_out_of_its_folder_writes_nothing_outside(tmp_path: Path, config, png: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in (*NAMES, "cat/in.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png)
            tar.addfile(info, io.BytesIO(png))
        link = tarfile.TarInfo("cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    manifest = prepare(config(tmp_path / "a.tar"))
    assert manifest.kept >= 1
    assert manifest.reject_counts["not a file"] == 1
    assert manifest.reject_counts["unsafe name"] >= 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set"]
    for shard in (tmp_path / "deep").rglob("*.tar"):
        with tarfile.open(shard) as tar:
            assert not [name for name in tar.getnames() if "/" in name or name.startswith(".")]


def test_a_zip_with_names_out_of_its_folder_writes_nothing_outside(tmp_path: Path, config, png: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in (*NAMES, "cat/in.png"):
            archive.writestr(name, png)
    prepare(config(tmp_path / "a.zip"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "deep"]


class TestForeignDataset:
    """Names in a manifest become file names, so a manifest with unsafe names is rejected before any file is touched."""

    @pytest.fixture
    def folder(self, tmp_path: Path, config, png: bytes) -> Path:
        (tmp_path / "in" / "cat").mkdir(parents=True)
        (tmp_path / "in" / "cat" / "a.png").write_bytes(png)
        prepare_config = config(tmp_path / "in")
        prepare(prepare_config)
        return Path(prepare_config.output)

    def rewrite_splits(self, folder: Path, change) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest["splits"])
        (folder / "manifest.json").write_text(json.dumps(manifest))

    @pytest.mark.parametrize("name", ["../../out.tar", "/tmp/out.tar", ".hidden", "a/b.tar", ""])  # noqa: S108
    def test_a_shard_outside_of_the_dataset_is_rejected(self, folder: Path, name: str) -> None:
        self.rewrite_splits(
            folder, lambda splits: [shard.update(name=name) for shards in splits.values() for shard in shards]
        )
        with pytest.raises(DataError, match="is not a valid shard entry"):
            Manifest.load(folder)

    def test_a_split_outside_of_the_dataset_is_rejected_before_features_are_written(
        self, folder: Path, tmp_path: Path
    ) -> None:
        self.rewrite_splits(folder, lambda splits: splits.update({"../../../out": splits.pop("train")}))
        with pytest.raises(DataError, match="is not a valid split name"):
            write_features(str(folder), "features", {}, lambda pixels: {"mean": pixels.mean((1, 2, 3))})
        assert not (tmp_path / "out").exists()

    def test_a_path_instead_of_a_sha256_does_not_make_the_cache_delete_it(self, folder: Path, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.write_text("mine")
        self.rewrite_splits(
            folder,
            lambda splits: [shard.update(sha256=str(precious)) for shards in splits.values() for shard in shards],
        )
        with pytest.raises(DataError, match="is not a valid shard entry"):
            Manifest.load(folder)
        cache = FileCache(tmp_path / "cache", 2**20)
        with pytest.raises(OSError, match="is not a sha256"):
            cache.open(str(precious), 1, lambda file: None)
        with pytest.raises(OSError, match="is not a sha256"):
            cache.evict_if_corrupt("../precious")
        assert precious.read_text() == "mine"


class TestRelease:
    """Release files are only read, as safetensors and JSON, so links are harmless; the hub's cache consists of them."""

    def test_links_in_a_release_are_followed(self, tmp_path: Path) -> None:
        folder, blobs = tmp_path / "release", tmp_path / "blobs"
        shutil.copytree(RELEASE, folder)
        blobs.mkdir()
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            blob = path.rename(blobs / str(path.relative_to(folder)).replace("/", "-"))
            path.symlink_to(blob)
        E4TPipeline.from_pretrained(folder, base=str(SHIPPED), device="cpu")

    @pytest.mark.parametrize("location", ["/etc", "../../../../../../../etc", "./passwd"])
    def test_a_base_path_that_is_not_a_model_is_reported(self, tmp_path: Path, location: str) -> None:
        folder = shutil.copytree(RELEASE, tmp_path / "release")
        index = json.loads((folder / "index.json").read_text())
        index["base"]["model"] = location
        (folder / "index.json").write_text(json.dumps(index))
        with pytest.raises(ConfigError, match="base model"):
            E4TPipeline.from_pretrained(folder, device="cpu")

    @pytest.mark.parametrize(
        "changes",
        [{"base": "a string"}, {"conditioning": []}, {"tuning": {"unknown_key": 1}}, {"sampling": None}, {"name": {}}],
    )
    def test_an_index_with_invalid_values_is_reported(self, tmp_path: Path, changes: dict[str, object]) -> None:
        folder = shutil.copytree(RELEASE, tmp_path / "release")
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(index | changes))
        with pytest.raises(ModelError, match="get the release again"):
            E4TPipeline.from_pretrained(folder, base=str(SHIPPED), device="cpu")

    def test_a_deeply_nested_index_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "index.json").write_text("[" * 100_000)
        with pytest.raises(ModelError, match="not a release folder"):
            E4TPipeline.from_pretrained(tmp_path)

    @pytest.mark.parametrize("location", ["http://127.0.0.1:9/base", "file:///etc", "https://evil.invalid/a/b"])
    def test_no_url_is_requested_for_a_base_model_or_image_encoder(self, location: str) -> None:
        for config in (BackboneConfig(model=location), BackboneConfig(model=str(SHIPPED), image_encoder=location)):
            with pytest.raises(ConfigError, match="cannot be loaded|no such folder"):
                load_parts(config)
