"""A registry, which takes seconds to lay out, so that one serves all; each test has a model of its own."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config.recipe import Recipe
from tests.pipelines.made_run import Trained, made_run, recipe_in

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _own_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs are."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def recipe(house: Path, trained: Trained) -> Recipe:
    """Of a run with a whole checkpoint."""
    recipe = replace(recipe_in(house), name=f"faces-{next(_NUMBERS)}")
    made_run(recipe, trained, 300)
    return recipe
