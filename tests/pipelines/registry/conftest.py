"""Tests share one registry, because creating it takes seconds; each test uses a model name of its own."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config.recipe import Recipe
from tests.pipelines.made_run import Trained, made_run, recipe_in

_COUNTER = itertools.count()


@pytest.fixture(autouse=True)
def _own_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="session")
def registry_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all runs."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def recipe(registry_folder: Path, trained: Trained) -> Recipe:
    """Return the recipe of a run with a complete checkpoint."""
    recipe = replace(recipe_in(registry_folder), name=f"faces-{next(_COUNTER)}")
    made_run(recipe, trained, 300)
    return recipe
