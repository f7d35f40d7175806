"""Small real pictures, and a set made of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.config import PrepareConfig, SplitFractions
from data_prep.prepare import prepare

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
        "concept": "cat",
        "resolution": 16,
        "codec": "png",
        "shard_samples": 5,
        "workers": 1,
        "splits": SplitFractions(train=0.7, val=0.1, test=0.2),
    }
    return PrepareConfig(**settings | changes)


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
    prepare(config)
    return root / "set"
