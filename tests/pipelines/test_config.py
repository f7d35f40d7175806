from pathlib import Path

import pytest
import yaml

from encoder.errors import ConfigError
from pipelines.config import PretrainConfig

RECIPES = Path(__file__).parents[2] / "pipelines" / "recipes"


def test_what_a_device_does_not_hold_at_once_is_accumulated() -> None:
    assert PretrainConfig(batch_size=64, micro_batch_size=8).accumulation(world=2) == 4


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a multiple"):
        PretrainConfig(batch_size=10, micro_batch_size=4).accumulation(world=2)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_named_after_its_file_and_accepted(path: Path) -> None:
    from jsonargparse import ArgumentParser

    from pipelines import commands

    parser = ArgumentParser(exit_on_error=False)
    commands._takes_recipe(parser)
    recipe = commands._recipe(parser.parse_args(["--recipe", str(path)]))
    assert recipe.name == path.stem
    assert (
        recipe.plain()["conditioning"]["domain_word"] == yaml.safe_load(path.read_text())["conditioning"]["domain_word"]
    )
