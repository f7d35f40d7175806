from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.stream_loaders import dataloader, e4t_stream
from data_prep.config import PrepareConfig, SplitFractions
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for number in range(12):
        folder = tmp_path / "images" / f"person{number}"
        folder.mkdir(parents=True)
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(folder / "0.png")
    config = PrepareConfig(
        source=str(tmp_path / "images"),
        output=str(tmp_path / "set"),
        domain="person",
        resolution=16,
        format="png",
        shard_samples=5,
        splits=SplitFractions(train=1.0, val=0.0, test=0.0),
    )
    prepare(config, LocalExecutor(workers=1))
    return tmp_path / "set"


def test_the_compared_dataloader_returns_the_batches_of_the_stream(dataset: Path) -> None:
    with closing(e4t_stream(dataset, 1, 4)) as stream, closing(dataloader(dataset, 2, 4)) as loader:
        for ours, theirs in islice(zip(stream, loader, strict=True), 5):
            assert torch.equal(ours[0], theirs[0])
            assert list(ours[1]) == list(theirs[1])
