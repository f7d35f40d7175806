import pytest

from e4t_errors import ConfigError
from encoder.config import TuneConfig
from encoder.tuning.presets import METHODS
from pipelines.config.evaluation import CompareConfig, EvaluateConfig, System


def test_e4t_uses_the_settings_of_the_recipe_and_other_methods_their_own() -> None:
    recipe = TuneConfig(learning_rate=0.125)
    assert System(name="E4T", method="e4t", steps=(5, 0)).tune_config(recipe).learning_rate == 0.125
    baseline = System(name="DreamBooth", method="dreambooth", steps=(7,)).tune_config(recipe)
    assert (baseline.learning_rate, baseline.steps) == (METHODS["dreambooth"].learning_rate, 7)


def test_settings_replace_those_of_the_method() -> None:
    assert System(name="x", method="dreambooth", settings={"batch_size": 3}).tune_config(TuneConfig()).batch_size == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "!?"}, "give a name of letters"),
        ({"steps": ()}, "steps of at least 0"),
        ({"num_images": 0}, "num_images of at least 1"),
        ({"settings": {"learnig_rate": 1}}, "unknown settings learnig_rate"),
        ({"method": "none", "steps": (0, 5)}, "set steps to 0"),
    ],
)
def test_an_invalid_system_is_an_error(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        System(**{"name": "x", "method": "e4t", **wrong})


def test_two_systems_with_the_same_folder_are_an_error() -> None:
    with pytest.raises(ConfigError, match="two systems are named 'e4t'"):
        CompareConfig(systems=(System(name="E4T", method="e4t"), System(name="e4t", method="e4t")))


@pytest.mark.parametrize("before", ["nobody", "DreamBooth"])
def test_a_system_can_start_only_from_a_textual_inversion(before: str) -> None:
    systems = (
        System(name="DreamBooth", method="dreambooth", steps=(1,)),
        System(name="both", method="pivotal", steps=(1,), init_from=before),
    )
    with pytest.raises(ConfigError, match="name a Textual Inversion system above it"):
        CompareConfig(systems=systems)


def test_the_default_systems_are_those_of_the_paper() -> None:
    names = [system.name for system in CompareConfig().systems]
    assert names[0] == "Stable Diffusion"
    assert {"Textual Inversion, 1 image", "Textual Inversion, 5 images", "DreamBooth, 1 image"} < set(names)
    assert {"DreamBooth, 5 images", "Textual Inversion + DreamBooth, 1 image", "E4T"} < set(names)


def test_the_grid_cannot_show_more_concepts_than_are_evaluated() -> None:
    with pytest.raises(ConfigError, match="num_concepts of at least num_grid_concepts"):
        EvaluateConfig(num_concepts=2, num_grid_concepts=3)
