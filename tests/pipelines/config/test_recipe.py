from pathlib import Path

import pytest
import yaml

from e4t_errors import ConfigError
from pipelines.cli.common import CommandParser, add_recipe_arguments, parse_recipe
from pipelines.config.pretraining import PretrainConfig

RECIPES = Path(__file__).parents[3] / "pipelines" / "recipes"


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "world_size", "split"),
    [
        (64, 8, 2, (8, 4)),
        (8, 8, 1, (8, 1)),
        (8, 64, 2, (4, 1)),
        (6, 8, 3, (2, 1)),
        (24, 3, 3, (2, 4)),  # 3 does not divide the local batch of 8, so micro batches of 2
        (14, 4, 2, (1, 7)),
        (3, 8, 3, (1, 1)),
    ],
)
def test_the_micro_batch_is_the_largest_that_divides_the_local_batch(
    batch_size: int, micro_batch_size: int, world_size: int, split: tuple[int, int]
) -> None:
    assert (
        PretrainConfig(global_batch_size=batch_size, micro_batch_size=micro_batch_size).micro_batch_split(world_size)
        == split
    )


@pytest.mark.parametrize("world_size", [3, 16])
def test_a_global_batch_that_does_not_divide_is_an_error_that_lists_numbers_of_devices(world_size: int) -> None:
    with pytest.raises(ConfigError, match=f"is not a multiple of {world_size} devices; start 1, 2, 4, 8 devices"):
        PretrainConfig(global_batch_size=8).micro_batch_split(world_size)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_steps", 0),
        ("global_batch_size", 0),
        ("micro_batch_size", -1),
        ("log_every", 0),
        ("checkpoint_every", 0),
        ("keep_last", 0),
        ("keep_every", -1),
        ("eval_every", 0),
        ("eval_samples", 0),
        ("max_consecutive_skips", 0),
        ("warmup_steps", -1),
        ("regularization_weight", -0.1),
        ("learning_rate", 0.0),
        ("offsets_learning_rate", -1e-5),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("init_timeout_seconds", 0.0),
        ("step_timeout_seconds", -1.0),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=setting):
        PretrainConfig(**{setting: value})


def test_the_offsets_have_the_learning_rate_of_the_encoder_by_default() -> None:
    assert PretrainConfig(learning_rate=1e-4).learning_rates == (1e-4, 1e-4)
    assert PretrainConfig(learning_rate=1e-4, offsets_learning_rate=1e-5).learning_rates == (1e-4, 1e-5)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_packaged_recipe_is_valid_and_named_after_its_file(path: Path) -> None:
    parser = CommandParser(exit_on_error=False)
    add_recipe_arguments(parser)
    recipe = parse_recipe(parser.parse_args(["--recipe", str(path)]))
    assert recipe.name == path.stem
    assert (
        recipe.to_dict()["conditioning"]["domain_word"]
        == yaml.safe_load(path.read_text())["conditioning"]["domain_word"]
    )
