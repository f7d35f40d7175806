"""Fixtures: small images, and datasets prepared from them."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.config import DataLoaderConfig, PrepareConfig, SplitFractions
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare
from data_prep.shards.manifest import Manifest
from tests.data_prep.flaky_server import FlakyServer, flaky_server

IDENTITIES, IMAGES = 12, 4


def noise(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Return an image of random pixels."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_images(root: Path) -> Path:
    """Write 12 identities of 4 images each; the first image of each has a caption."""
    for identity in range(IDENTITIES):
        folder = root / f"cat{identity:02d}"
        folder.mkdir(parents=True)
        for image in range(IMAGES):
            noise(identity * IMAGES + image).save(folder / f"{image}.png")
        (folder / "0.txt").write_text(f"cat number {identity} asleep\nand a second line\n")
    return root


def make_config(source: Path, output: Path, **changes: Any) -> PrepareConfig:
    settings: dict[str, Any] = {
        "source": str(source),
        "output": str(output),
        "domain": "cat",
        "resolution": 16,
        "format": "png",
        "shard_samples": 5,
        "splits": SplitFractions(train=0.7, val=0.1, test=0.2),
    }
    return PrepareConfig(**settings | changes)


def prepare_in_process(config: PrepareConfig) -> Manifest:
    """Prepare a dataset in this process, without starting workers."""
    return prepare(config, LocalExecutor(workers=1))


@pytest.fixture
def prepare_dataset() -> Callable[[PrepareConfig], Manifest]:
    return prepare_in_process


@pytest.fixture
def read_files() -> Callable[[Path], dict[str, bytes]]:
    """Read every file of a folder by name; the times in shard indexes are set to 0."""

    def read(output: Path) -> dict[str, bytes]:
        files = {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}
        for name, data in files.items():
            if "/" in name and name.endswith(".json"):
                files[name] = json.dumps(json.loads(data) | {"seconds": 0, "started": 0}).encode()
        return files

    return read


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Run as an unprivileged user: root ignores file permissions."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def ordinary_user() -> Callable[[], AbstractContextManager[None]]:
    return as_ordinary_user


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


@pytest.fixture
def config_for(tmp_path: Path) -> Callable[..., PrepareConfig]:
    """Return a function that builds a configuration for ``<tmp>/images`` and ``<tmp>/set`` with changes."""

    def build(source: Path = tmp_path / "images", output: Path = tmp_path / "set", **changes: Any) -> PrepareConfig:
        return make_config(source, output, **changes)

    return build


@pytest.fixture(scope="session")
def shared_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset that tests must not change; ``train`` holds about 40 images in 8 shards."""
    root = tmp_path_factory.mktemp("shared")
    config = make_config(make_images(root / "images"), root / "set", shard_samples=3)
    prepare_in_process(config)
    return root / "set"


@pytest.fixture
def server(shared_dataset: Path) -> Iterator[FlakyServer]:
    """Serve the shared dataset over HTTP."""
    with flaky_server(shared_dataset) as running:
        yield running


@pytest.fixture
def loader_config(tmp_path: Path) -> Callable[..., DataLoaderConfig]:
    """Return a function that builds a configuration with fast retries and a cache below ``tmp_path``."""

    def build(**changes: Any) -> DataLoaderConfig:
        settings: dict[str, Any] = {
            "shuffle_window_shards": 3,
            "num_workers": 0,
            "prefetch": 1,
            "cache_dir": str(tmp_path / "cache"),
            "retries": 2,
            "backoff_seconds": 0.01,
            "timeout_seconds": 0.5,
        }
        return DataLoaderConfig(**settings | changes)

    return build
