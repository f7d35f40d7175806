"""Every old key and value of a recipe or site file is refused with its new name; nothing new is refused."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from e4t_errors import ConfigError
from pipelines.cluster.kubernetes import KubernetesSite
from pipelines.cluster.slurm import SlurmSite
from pipelines.config.evaluation import System
from pipelines.config.recipe import Recipe
from pipelines.config.renamed import (
    MOVED_KEYS,
    RENAMED_KEYS,
    RENAMED_SITE_KEYS,
    RENAMED_VALUES,
    check_recipe_names,
    check_site_names,
)

RECIPES = Path(__file__).parents[3] / "pipelines" / "recipes"
OLD_SECTIONS = {"data.filters": "data.select", "publish.min_scores": "publish.gate"}
LISTS = ("compare.systems",)


def nested(section: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A recipe that has only these settings, in this section."""
    for list_section in LISTS:
        if section == list_section:
            return nested("compare", {"systems": [{"name": "x"}, settings]})
        if section.startswith(f"{list_section}."):
            return nested(list_section, {section.rpartition(".")[2]: settings})
    for name in reversed(section.split(".")):
        settings = {name: settings}
    return settings


RENAMED = [(section, old, new) for section, keys in RENAMED_KEYS.items() for old, new in keys.items()]
VALUES = [(key, old, new) for key, values in RENAMED_VALUES.items() for old, new in values.items()]


@pytest.mark.parametrize(("section", "old", "new"), RENAMED, ids=lambda value: value.replace(" ", "_"))
def test_an_old_recipe_key_is_refused_with_its_new_name(section: str, old: str, new: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_recipe_names(nested(section, {old: 1}), "recipe x.yaml")
    assert str(error.value) == f"recipe x.yaml uses old names: {section}.{old} is now {section}.{new}; rename it"


@pytest.mark.parametrize(("section", "old_section"), OLD_SECTIONS.items())
def test_an_old_key_in_a_section_that_was_renamed_is_refused(section: str, old_section: str) -> None:
    for old, new in RENAMED_KEYS[section].items():
        with pytest.raises(ConfigError) as error:
            check_recipe_names(nested(old_section, {old: 1}), "recipe x.yaml")
        assert f"{old_section} is now {section}, {old_section}.{old} is now {section}.{new}" in str(error.value)


@pytest.mark.parametrize(("old", "new"), MOVED_KEYS.items())
def test_an_old_key_whose_section_has_another_meaning_now_is_refused_with_its_new_name(old: str, new: str) -> None:
    section, _, key = old.rpartition(".")
    with pytest.raises(ConfigError, match=f"^recipe x.yaml uses old names: {old} is now {new}; rename it$"):
        check_recipe_names(nested(section, {key: 1}), "recipe x.yaml")
    names = {field.name for field in fields(config_at(section))}
    assert key not in names
    section, _, key = new.rpartition(".")
    check_recipe_names(nested(section, {key: 1}), "recipe x.yaml")
    assert key in {field.name for field in fields(config_at(section))}


@pytest.mark.parametrize(("key", "old", "new"), VALUES, ids=lambda value: value.replace(" ", "_"))
def test_an_old_value_of_a_recipe_key_is_refused_with_its_new_name(key: str, old: str, new: str) -> None:
    section, _, name = key.rpartition(".")
    with pytest.raises(ConfigError, match=f"{key}: {old} is now {key}: {new}; rename it$"):
        check_recipe_names(nested(section, {name: old}), "recipe x.yaml")


def test_an_unquoted_no_is_recognized_as_the_old_precision() -> None:
    with pytest.raises(ConfigError, match="pretrain.precision: no is now pretrain.precision: fp32"):
        check_recipe_names(yaml.safe_load("pretrain: {precision: no}"), "recipe x.yaml")


def test_the_old_placeholder_of_a_caption_template_is_refused_with_its_new_name() -> None:
    with pytest.raises(ConfigError, match="{concept} in data.caption_template is now {domain}; rename it$"):
        check_recipe_names({"data": {"caption_template": "a photo of a {concept}"}}, "recipe x.yaml")


def test_all_old_names_of_a_recipe_stand_in_one_line() -> None:
    recipe = {"pretrain": {"steps": 3, "keep": 2, "keep_every": 1}, "base": {"clip": "x"}}
    with pytest.raises(ConfigError) as error:
        check_recipe_names(recipe, "recipe x.yaml")
    assert str(error.value) == (
        "recipe x.yaml uses old names: pretrain.steps is now pretrain.max_steps, pretrain.keep is now "
        "pretrain.keep_last, base.clip is now base.image_encoder; rename them"
    )


@pytest.mark.parametrize(
    ("scheduler", "old", "new"),
    [(scheduler, old, new) for scheduler, keys in RENAMED_SITE_KEYS.items() for old, new in keys.items()],
)
def test_an_old_key_of_a_site_file_is_refused_with_its_new_name(scheduler: str, old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=f"^site file s.yaml uses old names: {old} is now {new}; rename it$"):
        check_site_names(scheduler, {old: 1}, "site file s.yaml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_that_ship_use_new_names(path: Path) -> None:
    check_recipe_names(yaml.safe_load(path.read_text()), str(path))


def config_at(section: str) -> type:
    """The dataclass whose fields are the keys of a section."""
    if section == "compare.systems":
        return System
    kind: Any = Recipe
    for name in section.replace("compare.systems.settings", "tune").split("."):
        kind = get_type_hints(kind)[name]
    return kind


@pytest.mark.parametrize("section", sorted(RENAMED_KEYS.keys() - {"publish.min_scores"}))
def test_every_new_name_exists_and_no_old_one_does(section: str) -> None:
    kind = config_at(section)
    assert is_dataclass(kind)
    names = {field.name for field in fields(kind)}
    for new in RENAMED_KEYS[section].values():
        parent, _, name = f"{section}.{new}".rpartition(".")
        assert name in {field.name for field in fields(config_at(parent))}
    assert not RENAMED_KEYS[section].keys() & names


@pytest.mark.parametrize("key", sorted(RENAMED_VALUES))
def test_every_new_value_exists_and_no_old_one_does(key: str) -> None:
    section, _, name = key.rpartition(".")
    allowed = get_args(get_type_hints(config_at(section))[name])
    assert set(RENAMED_VALUES[key].values()) <= set(allowed)
    assert not RENAMED_VALUES[key].keys() & set(allowed)


@pytest.mark.parametrize(("scheduler", "site"), [("slurm", SlurmSite), ("k8s", KubernetesSite)])
def test_every_new_site_key_exists_and_no_old_one_does(scheduler: str, site: type) -> None:
    names = {field.name for field in fields(site)}  # type: ignore[arg-type]
    assert set(RENAMED_SITE_KEYS[scheduler].values()) <= names
    assert not RENAMED_SITE_KEYS[scheduler].keys() & names
