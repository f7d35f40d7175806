"""Fixtures of registry tests: every test has a registry of its own."""

import pytest

from pipelines.config.recipe import Recipe


@pytest.fixture
def recipe(trained_recipe: Recipe) -> Recipe:
    return trained_recipe
