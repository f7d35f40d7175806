import pytest

from e4t import ConfigError
from encoder.config import TuneConfig
from encoder.tuning.presets import METHODS
from pipelines.config.evaluation import CompareConfig, EvaluateConfig, System


def test_e4t_tunes_by_the_recipe_and_a_rival_by_its_own() -> None:
    recipe = TuneConfig(learning_rate=0.125)
    assert System(name="E4T", method="e4t", steps=(5, 0)).tune_config(recipe).learning_rate == 0.125
    rival = System(name="DreamBooth", method="dreambooth", steps=(7,)).tune_config(recipe)
    assert (rival.learning_rate, rival.steps) == (METHODS["dreambooth"].learning_rate, 7)


def test_settings_stand_in_place_of_the_methods_own() -> None:
    assert System(name="x", method="dreambooth", settings={"batch_size": 3}).tune_config(TuneConfig()).batch_size == 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": "!?"}, "give a name of letters"),
        ({"steps": ()}, "steps of at least 0"),
        ({"num_images": 0}, "num_images of at least 1"),
        ({"settings": {"learnig_rate": 1}}, "unknown settings learnig_rate"),
        ({"method": "none", "steps": (0, 5)}, "set steps to 0"),
    ],
)
def test_a_wrong_system_is_refused_in_one_line(wrong: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        System(**{"name": "x", "method": "e4t", **wrong})


def test_two_systems_of_one_folder_are_refused() -> None:
    with pytest.raises(ConfigError, match="two systems are named 'e4t'"):
        CompareConfig(systems=(System(name="E4T", method="e4t"), System(name="e4t", method="e4t")))


@pytest.mark.parametrize("before", ["nobody", "DreamBooth"])
def test_a_system_goes_on_after_a_textual_inversion_alone(before: str) -> None:
    systems = (
        System(name="DreamBooth", method="dreambooth", steps=(1,)),
        System(name="both", method="pivotal", steps=(1,), init_from=before),
    )
    with pytest.raises(ConfigError, match="name a Textual Inversion system above it"):
        CompareConfig(systems=systems)


def test_the_default_systems_are_the_articles() -> None:
    names = [system.name for system in CompareConfig().systems]
    assert names[0] == "Stable Diffusion"
    assert {"Textual Inversion, 1 image", "Textual Inversion, 5 images", "DreamBooth, 1 image"} < set(names)
    assert {"DreamBooth, 5 images", "Textual Inversion + DreamBooth, 1 image", "E4T"} < set(names)


def test_no_more_concepts_are_shown_than_there_are() -> None:
    with pytest.raises(ConfigError, match="num_concepts of at least num_grid_concepts"):
        EvaluateConfig(num_concepts=2, num_grid_concepts=3)
