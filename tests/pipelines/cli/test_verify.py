"""``--verify`` says in one line that all is well, or what is not."""

import shutil
from pathlib import Path

import pytest
from torch import Tensor

from data_prep.shards.features import write_features
from pipelines.cli.main import main


@pytest.fixture
def dataset(shards: Path, tmp_path: Path) -> Path:
    """A copy of the small dataset, which has no cached features."""
    return Path(shutil.copytree(shards, tmp_path / "set"))


def verify(command: str, recipe: Path, dataset: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main([command, "--recipe", str(recipe), "--data.output", str(dataset), "--verify"])
    return code, *capfd.readouterr()


def mean_color(pixels: Tensor) -> dict[str, Tensor]:
    return {"color": pixels.mean((2, 3))}


def test_a_good_dataset_is_counted(recipe: Path, dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    number = len(list(dataset.glob("*/*.tar")))
    expected = f"{dataset}: all {number} files match their digests\n"
    assert verify("prepare", recipe, dataset, capfd) == (0, expected, "")


def test_good_and_damaged_features_are_told_apart(
    recipe: Path, dataset: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_features(str(dataset), "features", {"model": "mean"}, mean_color)
    files = sorted((dataset / "features").glob("*/*.safetensors"))
    expected = f"{dataset}/features: all {len(files)} files match their digests\n"
    assert verify("cache", recipe, dataset, capfd) == (0, expected, "")
    files[0].unlink()
    code, out, _ = verify("cache", recipe, dataset, capfd)
    assert code == 1
    assert out.splitlines()[0].startswith(f"features {files[0]} are missing")
    assert out.splitlines()[1] == f"{dataset}/features: damaged, problems: 1"


def test_missing_features_are_an_error(recipe: Path, dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expected = f"e4t: {dataset}/features: no features are cached here; run `e4t cache` with the same recipe\n"
    assert verify("cache", recipe, dataset, capfd) == (1, "", expected)
