"""Small real pictures, and a set made of them."""

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

IDENTITIES, PICTURES = 12, 4


def noise(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A picture unlike every other."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_pictures(root: Path) -> Path:
    """12 identities of 4 pictures; the first picture of each has a caption."""
    for identity in range(IDENTITIES):
        folder = root / f"cat{identity:02d}"
        folder.mkdir(parents=True)
        for picture in range(PICTURES):
            noise(identity * PICTURES + picture).save(folder / f"{picture}.png")
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


def make_set(config: PrepareConfig) -> Manifest:
    """The set, made in this process: no other need start."""
    return prepare(config, LocalExecutor(workers=1))


@pytest.fixture
def made() -> Callable[[PrepareConfig], Manifest]:
    return make_set


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file's bytes by its name; of sidecars without the time they took."""

    def read(output: Path) -> dict[str, bytes]:
        files = {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}
        for name, data in files.items():
            if "/" in name and name.endswith(".json"):
                files[name] = json.dumps(json.loads(data) | {"seconds": 0, "started": 0}).encode()
        return files

    return read


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root reads and writes wherever it likes, so be somebody else for a while."""
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
def draw() -> Callable[..., Image.Image]:
    return noise


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "pictures")


@pytest.fixture
def config_for(tmp_path: Path) -> Callable[..., PrepareConfig]:
    """A configuration for ``<tmp>/pictures`` and ``<tmp>/set``, with changes."""

    def build(source: Path = tmp_path / "pictures", output: Path = tmp_path / "set", **changes: Any) -> PrepareConfig:
        return make_config(source, output, **changes)

    return build


@pytest.fixture(scope="session")
def shared_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished set that tests read and leave alone; ``train`` holds 40 pictures in 8 shards or thereabouts."""
    root = tmp_path_factory.mktemp("shared")
    config = make_config(make_pictures(root / "pictures"), root / "set", shard_samples=3)
    make_set(config)
    return root / "set"


@pytest.fixture
def server(shared_set: Path) -> Iterator[FlakyServer]:
    """The shared set over HTTP."""
    with flaky_server(shared_set) as running:
        yield running


@pytest.fixture
def patient(tmp_path: Path) -> Callable[..., DataLoaderConfig]:
    """Settings under which reads are tried again at once, and what comes from a store is kept below ``tmp_path``."""

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
