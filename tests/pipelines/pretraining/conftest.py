"""A finished run that tests read, copy and continue."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.shared import build_once, copy_mlflow_database
from tests.warm_process import run_command


@pytest.fixture(scope="session")
def finished(small_recipe: dict) -> Path:
    """A folder of runs that holds one undisturbed run, ``small``, of two ranks; shared by all workers."""

    def train(folder: Path) -> None:
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(small_recipe | {"runs": str(folder / "runs")}))
        copy_mlflow_database(folder / "runs")
        result = run_command("pretrain", "--recipe", recipe, "--nproc", "2")
        assert result.code == 0, result

    return build_once("finished-run", train) / "runs"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, for the recipe of the same test to continue."""
    shutil.copytree(finished, tmp_path / "runs", dirs_exist_ok=True)
    folder = tmp_path / "runs" / "small"
    settings = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings | {"runs": str(tmp_path / "runs")}))
    return folder
