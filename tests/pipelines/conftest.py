"""A small prepared dataset and a recipe for it, made by the real stages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data_prep.config import PrepareConfig
from data_prep.prepare.executors import LocalExecutor
from data_prep.prepare.pipeline import prepare
from data_prep.synthetic.faces import FacesConfig, generate_faces
from pipelines.cli.main import main
from pipelines.config.recipe import Recipe
from tests.pipelines.made_run import Trained, made_run, recipe_in
from tests.shared import build_once, copy_mlflow_database
from tests.warm_process import run_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shards(_shared_folder: None) -> Path:
    """A prepared dataset of 80 people with two images each, beside its source ``faces``; shared by all workers."""
    return build_once("small-dataset", _prepare_faces) / "shards"


def _prepare_faces(folder: Path) -> None:
    generate_faces(FacesConfig(output=str(folder / "faces"), num_identities=80, images_per_identity=2), workers=1)
    config = PrepareConfig(
        source=str(folder / "faces"), output=str(folder / "shards"), domain="person",
        resolution=64, format="png", shard_samples=20,
    )  # fmt: skip
    prepare(config, LocalExecutor(workers=1))


@pytest.fixture(scope="session")
def small_recipe(shards: Path) -> dict[str, Any]:
    """A recipe of a few steps on two ranks, which takes seconds. It has no ``runs``."""
    return {
        "name": "small",
        "base": {"model": str(ROOT / "models" / "base")},
        "data": {
            "source": str(shards.parent / "faces"), "output": str(shards), "domain": "person",
            "resolution": 64, "format": "png", "shard_samples": 20,
        },
        "conditioning": {"domain_word": "person", "templates": ["a portrait of a *s"], "caption_probability": 0.5},
        "pretrain": {
            "max_steps": 4, "global_batch_size": 6, "micro_batch_size": 2, "learning_rate": 1.0e-3, "hidden_width": 64,
            "log_every": 1, "checkpoint_every": 2, "eval_every": 4, "eval_samples": 4, "zero_stage": 2,
        },
        "tune": {"steps": 2, "batch_size": 2, "learning_rate": 5.0e-5},
        "sample": {"num_inference_steps": 2, "guidance_scale": 3.0},
        "evaluate": {"num_concepts": 2, "num_grid_concepts": 1, "num_prompts": 1, "steps": [0, 2]},
    }  # fmt: skip


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Weights as a run would have trained them, for the packaged base model."""
    return Trained.of_shipped_base()


@pytest.fixture
def trained_recipe(trained: Trained, tmp_path: Path, _shared_folder: None, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Return the recipe of a run with a complete checkpoint; its folder of runs holds an empty MLflow database."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    recipe = recipe_in(tmp_path)
    copy_mlflow_database(Path(recipe.runs))
    made_run(recipe, trained, 300)
    return recipe


@pytest.fixture
def recipe(small_recipe: dict[str, Any], tmp_path: Path) -> Path:
    """The small recipe as a file, with a folder of runs of its own that holds an empty MLflow database."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(small_recipe | {"runs": str(tmp_path / "runs")}))
    copy_mlflow_database(tmp_path / "runs")
    return path


@pytest.fixture
def e4t(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command and return its exit code, output and errors.

    Commands that start ranks run in processes that are forked from a warm one (``tests.warm_process``), others in this
    process.
    """

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        if arguments[0] in ("pretrain", "cache") and not torch.cuda.is_available():  # CUDA does not survive a fork
            return run_command(*arguments)
        capfd.readouterr()  # drop the output of fixtures
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run
